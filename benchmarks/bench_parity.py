"""Whether a device computes what the CPU does: one optimizer step and one evaluation, against float32 on the CPU.

    python -m benchmarks.bench_parity --model whisper-base/ --device cuda --out parity.json

Of a step: the loss, the norm of the gradient, and the direction of the update (cosine with that of the CPU; AdamW's
first update has the sign of each gradient, so the cosine falls where gradients are near 0). Of an evaluation: the loss,
and how many hypotheses are the same text.
"""

import argparse
import json
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu import our_settings
from benchmarks.speech import speak_sentences, write_speech
from whisper_shard.config.settings import replace_settings
from whisper_shard.config.train import TrainConfig
from whisper_shard.dataset.index import Dataset
from whisper_shard.model.device import DTYPES, full_precision
from whisper_shard.model.labels import Labeler
from whisper_shard.model.whisper import load_whisper
from whisper_shard.score.evaluate import EvaluationSettings, evaluate_model
from whisper_shard.stream.loader import open_evaluation, open_loader
from whisper_shard.train.build import build_trainable
from whisper_shard.train.global_batch import GlobalBatchBuilder, Requests
from whisper_shard.train.ranks import Ranks
from whisper_shard.train.run.context import Machine
from whisper_shard.train.silence_source import find_silence_source
from whisper_shard.train.step import TrainStep

UTTERANCES = 8


def main() -> None:
    """Compute both on the CPU and on the device, compare, and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    device = torch.device(args.device)
    precisions = ("fp32", "bf16", "fp16") if device.type == "cuda" else ("fp32", "bf16")
    with tempfile.TemporaryDirectory() as folder:
        data = write_speech(Path(folder) / "data", speak_sentences(UTTERANCES, shortest=2, longest=6, seed=7))
        expected = compute(args.model, data, torch.device("cpu"), "fp32")
        found = {name: compare(compute(args.model, data, device, name), expected) for name in precisions}
    exact = found["fp32"]
    summary = (
        f"fp32: loss differs by {exact['loss']:.1e}, update cosine {exact['update_cosine']:.4f}, "
        f"{exact['same_texts']} of {UTTERANCES} texts the same"
    )
    args.out.write_text(json.dumps({"summary": summary, "differences": found}, indent=1))
    print(summary)


def compute(model: str, data: Dataset, device: torch.device, precision: str) -> dict[str, Any]:
    """Make one step and evaluate before it; return what is compared."""
    config = replace_settings(TrainConfig(), {"model": model, "batch_size": UTTERANCES, "workers": 0, "lr": 1e-5})
    machine = Machine(device=device, dtype=DTYPES[precision], ranks=Ranks())
    loaded = load_whisper(model)
    labeler = Labeler(loaded.tokenizer, is_multilingual=loaded.is_multilingual)
    source = find_silence_source([data], config).waveform
    with our_settings(device) if device.type == "cuda" else nullcontext(), full_precision():
        trainable = build_trainable(loaded, config, machine)
        builder = GlobalBatchBuilder(
            labeler=labeler, config=config, ranks=machine.ranks, total_steps=10, longest_window=trainable.longest_window
        )
        settings = EvaluationSettings(window="full", max_new_tokens=32, dtype=machine.dtype)
        evaluated = evaluate_model(loaded, open_evaluation(data, batch_size=UTTERANCES), labeler, settings)
        before = [p.detach().cpu().clone() for p in trainable.parameters]
        batch = next(iter(open_loader(data, config.stream)))
        step = TrainStep(trainable, builder, config, machine, source)
        loss, norm, skipped = step(batch, step=0, lr=1e-5, requests=Requests()).read()
        after = [p.detach().cpu() for p in trainable.parameters]
    update = torch.cat([(new - old).flatten() for new, old in zip(after, before, strict=True)])
    texts = {row.key: row.hypothesis for row in evaluated.utterances}
    return {"loss": loss, "norm": norm, "skipped": skipped, "update": update, "eval": evaluated.loss, "texts": texts}


def compare(found: dict[str, Any], expected: dict[str, Any]) -> dict[str, Any]:
    """Return the differences from float32 on the CPU."""
    cosine = torch.nn.functional.cosine_similarity(found["update"].double(), expected["update"].double(), dim=0)
    return {
        "loss": abs(found["loss"] - expected["loss"]),
        "grad_norm_ratio": found["norm"] / expected["norm"],
        "skipped": found["skipped"],
        "update_cosine": float(cosine),
        "evaluation_loss": abs(found["eval"] - expected["eval"]),
        "same_texts": sum(found["texts"][key] == text for key, text in expected["texts"].items()),
    }


if __name__ == "__main__":
    main()
