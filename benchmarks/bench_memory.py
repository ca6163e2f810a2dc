"""What of whisper-large-v3 fits into the memory of a GPU, with the settings that save memory.

    python -m benchmarks.bench_memory

Needs neither a GPU nor the weights: memory is counted by `train/memory.py`, on tensors without data. The largest pass
is searched for each size of memory: the step needs its total, and `RESERVED_GB` is left to what is not counted (the
CUDA context, workspaces, fragmentation). Texts have 64 tokens.
"""

from bisect import bisect_right
from dataclasses import asdict
from typing import Any

import torch
from transformers import WhisperConfig

from benchmarks.machine import write_result
from whisper_shard.config.settings import replace_settings
from whisper_shard.config.train import TrainConfig
from whisper_shard.train.events import PassShape, StepMemory
from whisper_shard.train.memory import estimate_memory
from whisper_shard.utterance import SAMPLE_RATE

# Source: config.json of https://huggingface.co/openai/whisper-large-v3.
LARGE_V3 = {
    "d_model": 1280, "encoder_layers": 32, "decoder_layers": 32, "encoder_attention_heads": 20,
    "decoder_attention_heads": 20, "encoder_ffn_dim": 5120, "decoder_ffn_dim": 5120, "num_mel_bins": 128,
    "vocab_size": 51866,
}  # fmt: skip
VARIANTS: dict[str, dict[str, Any]] = {
    "(none)": {},
    "--gradient-checkpointing": {"gradient_checkpointing": True},
    "--optimizer adamw-8bit": {"optimizer": "adamw-8bit"},
    "--optimizer adamw-8bit --gradient-checkpointing": {"optimizer": "adamw-8bit", "gradient_checkpointing": True},
    "--ema 0.999": {"ema": 0.999},
    "--freeze-encoder": {"freeze_encoder": True},
    "--freeze-encoder --optimizer adamw-8bit": {"freeze_encoder": True, "optimizer": "adamw-8bit"},
    "--lora-rank 32": {"lora_rank": 32},
    "--lora-rank 32 --gradient-checkpointing": {"lora_rank": 32, "gradient_checkpointing": True},
    "--shard states (4 ranks)": {"shard": "states", "ranks": 4},
    "--shard all (4 ranks)": {"shard": "all", "ranks": 4},
    "--shard all --gradient-checkpointing (4 ranks)": {"shard": "all", "gradient_checkpointing": True, "ranks": 4},
    "--shard all --gradient-checkpointing (8 ranks)": {"shard": "all", "gradient_checkpointing": True, "ranks": 8},
}
"""Settings of `train`, and the number of ranks."""
WINDOW_SECONDS = (30, 8)
SIZES_GB = (24, 40, 80)
RESERVED_GB = 2
TOKENS = 64
PROBED_ROWS = (8, 16)  # memory grows evenly with the rows of a pass, from which the search begins


def main() -> None:
    """Count every variant, search the largest passes, and write the JSON."""
    write_result("memory", "python -m benchmarks.bench_memory", measure(), "torch", "transformers", "peft")


def measure() -> dict[str, Any]:
    """Return settings and results as JSON values."""
    variants = {name: measure_variant(settings) for name, settings in VARIANTS.items()}
    return {"model": "whisper-large-v3", "reserved_gb": RESERVED_GB, "tokens": TOKENS, "settings": variants}


def measure_variant(settings: dict[str, Any]) -> dict[str, Any]:
    """Return parts of the memory in GB for one utterance of 30 s, and the largest passes."""
    one = count(settings, rows=1, seconds=30)
    passes = {}
    for seconds in WINDOW_SECONDS:
        few, many = (count(settings, rows=rows, seconds=seconds).total for rows in PROBED_ROWS)
        each = (many - few) / (PROBED_ROWS[1] - PROBED_ROWS[0])
        fixed = few - each * PROBED_ROWS[0]
        passes[f"{seconds} s"] = {
            f"{size} GB": largest_pass(settings, seconds, room=(size - RESERVED_GB) * 1e9, fixed=fixed, each=each)
            for size in SIZES_GB
        }
    return {"gb": {name: round(size / 1e9, 2) for name, size in asdict(one).items()}, "largest_pass": passes}


def largest_pass(settings: dict[str, Any], seconds: int, *, room: float, fixed: float, each: float) -> int:
    """Return the most utterances whose pass fits; 0: not even one."""
    # With many rows the peak may lie in another phase of the pass, where each of them needs more.
    most = max(0, int((room - fixed) / each))
    return bisect_right(range(1, most + 1), room, key=lambda rows: count(settings, rows=rows, seconds=seconds).total)


def count(settings: dict[str, Any], *, rows: int, seconds: int) -> StepMemory:
    """Return the memory of a step of whisper-large-v3 in bf16, on one rank."""
    config = replace_settings(TrainConfig(), {name: value for name, value in settings.items() if name != "ranks"})
    shape = PassShape(rows=rows, window_samples=seconds * SAMPLE_RATE, tokens=TOKENS)
    return estimate_memory(WhisperConfig(**LARGE_V3), config, torch.bfloat16, shape, world=settings.get("ranks", 1))


if __name__ == "__main__":
    main()
