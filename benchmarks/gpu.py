"""Both sides of a comparison on a GPU: each with its own settings of torch, which are those of the whole process."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from whisper_shard.model.device import set_up_gpu


@contextmanager
def our_settings(device: torch.device) -> Iterator[None]:
    """Let torch compute as `train` and `score` let it, for the time; on a CPU there is nothing to set."""
    set_up_gpu(device)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(True)


@contextmanager
def their_settings(*, cudnn_attention: bool) -> Iterator[None]:
    """Let torch compute as it comes, or with attention kept out of cuDNN, for the time."""
    torch.backends.cuda.enable_cudnn_sdp(cudnn_attention)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(True)


def use_tf32(device: torch.device) -> None:
    """Let both sides round float32 products to TF32 on a GPU."""
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")


def gpu_name(device: torch.device) -> str | None:
    """Return the name of a GPU; None: it is a CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else None
