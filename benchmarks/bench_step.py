"""Speed and memory of optimizer steps of one model in several settings: precision, windows, borrowed silence, compiled.

    python -m benchmarks.bench_step --model whisper-small/ --device cuda --batch 64 --steps 6 --out step.json

The same sentences of 3 to 12 s for all. Audio hours are those of speech, without padding, and so is the MFU.
"""

import argparse
import gc
import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.bench_train import time_ours
from benchmarks.gpu import use_tf32
from benchmarks.speech import speak_sentences, write_speech
from whisper_shard.errors import WhisperShardError
from whisper_shard.train.run.context import keep_freed_memory

SETTINGS: dict[str, dict[str, Any]] = {
    "auto, bf16": {},
    "auto, bf16, --beyond nothing": {"beyond": "nothing"},
    "full, bf16": {"window": "full"},
    "auto, fp16": {"precision": "fp16"},
    "auto, bf16, --compile": {"compile": True},
    "auto, bf16, --gradient-checkpointing": {"gradient_checkpointing": True},
}


def main() -> None:
    """Measure all settings and write the JSON; a setting that fails is in it with its error."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--peak-tflops", type=float, default=0.0)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    keep_freed_memory()
    device = torch.device(args.device)
    use_tf32(device)
    warm_steps = 4 if device.type == "cuda" else 1
    count = args.batch * (args.steps + warm_steps + 1)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        data = write_speech(Path(folder) / "data", speak_sentences(count, shortest=3, longest=12, seed=5))
        for name, settings in SETTINGS.items():
            try:
                timed = time_ours(
                    args, data, settings=settings, steps=args.steps, batch=args.batch, warm_steps=warm_steps
                )
                found[name] = {**timed, "utterances_per_second": 1 / timed["wall_seconds_per_utterance"]}
            except (WhisperShardError, RuntimeError) as error:
                found[name] = {"error": str(error).splitlines()[0]}
            print(name, found[name], flush=True)
            gc.collect()
            if device.type == "cuda":
                torch.cuda.empty_cache()
    failed = [name for name, one in found.items() if "error" in one]
    summary = f"{len(found) - len(failed)} of {len(found)} settings" + (f"; failed: {', '.join(failed)}" * bool(failed))
    args.out.write_text(json.dumps({"summary": summary, "steps": found}, indent=1))


if __name__ == "__main__":
    main()
