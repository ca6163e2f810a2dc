"""Attention back ends by shape, with the bias of borrowed silence and without: forward and backward, in bf16.

    python -m benchmarks.bench_attention --device cuda --out attention.json

The shapes are those of an encoder layer of whisper-small for windows of 3, 8 and 30 s; with borrowed silence its keys
are longer by the silence, and the bias is added (`attention_bias`). A back end that does not take a shape says why.
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from whisper_shard.model.borrowed_silence import STRIDE, attention_bias

BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}
HEADS, WIDTH = 12, 64
POSITIONS_PER_SECOND, LONGEST = 50, 30


def main() -> None:
    """Time every back end on every shape, and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    device = torch.device(args.device)
    rows, turns = (64, 20) if device.type == "cuda" else (2, 2)
    found: dict[str, Any] = {}
    for seconds in (3, 8, 30):
        for borrows in (False, True) if seconds < LONGEST else (False,):
            name = f"{seconds} s{', borrowed silence' if borrows else ''}"
            found[name] = dict(time_backends(device, rows, seconds, borrows=borrows, turns=turns))
            print(name, found[name], flush=True)
    fastest = {
        name: min((ms for ms in times.values() if isinstance(ms, float)), default=None) for name, times in found.items()
    }
    best = {
        name: next((backend for backend, ms in times.items() if ms == fastest[name]), "none")
        for name, times in found.items()
    }
    summary = "fastest: " + ", ".join(f"{name} {backend}" for name, backend in best.items())
    args.out.write_text(json.dumps({"summary": summary, "rows": rows, "milliseconds": found}, indent=1))
    print(summary)


def time_backends(
    device: torch.device, rows: int, seconds: int, *, borrows: bool, turns: int
) -> Iterator[tuple[str, float | str]]:
    """Yield each back end with its milliseconds for forward and backward, or why it does not run."""
    own = seconds * POSITIONS_PER_SECOND
    silent = (LONGEST - seconds) * POSITIONS_PER_SECOND // STRIDE if borrows else 0
    query = torch.randn(rows, HEADS, own, WIDTH, device=device, dtype=torch.bfloat16, requires_grad=True)
    keys, values = (torch.randn(rows, HEADS, own + silent, WIDTH, device=device, dtype=torch.bfloat16) for _ in "kv")
    keys.requires_grad_()
    values.requires_grad_()
    bias = attention_bias(query, own, silent, STRIDE) if borrows else None
    for name, backend in BACKENDS.items():
        try:
            with sdpa_kernel(backend):
                yield name, time_attention(query, keys, values, bias, turns)
        except RuntimeError as error:
            yield name, str(error).splitlines()[0]


def time_attention(query: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None, turns: int) -> float:
    """Return the milliseconds of one pass in both directions, after two that are not timed."""
    is_cuda = query.device.type == "cuda"
    for turn in range(-2, turns):
        if turn == 0:
            if is_cuda:
                torch.cuda.synchronize()
            began = time.perf_counter()
        scaled_dot_product_attention(query, keys, values, attn_mask=bias).sum().backward()
    if is_cuda:
        torch.cuda.synchronize()
    return round((time.perf_counter() - began) / turns * 1000, 3)


if __name__ == "__main__":
    main()
