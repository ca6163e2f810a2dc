"""Settings of torch for both sides of a comparison on a GPU; they apply to the whole process."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from whisper_shard.model.device import set_up_gpu


@contextmanager
def our_settings(device: torch.device) -> Iterator[None]:
    """Use the settings of `train` and `score` in this context; on a CPU there are none."""
    set_up_gpu(device)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(True)


@contextmanager
def their_settings(*, cudnn_attention: bool) -> Iterator[None]:
    """Use the default settings of torch in this context, or attention without cuDNN."""
    torch.backends.cuda.enable_cudnn_sdp(cudnn_attention)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(True)


def use_tf32(device: torch.device) -> None:
    """Round float32 products to TF32 on a GPU, for both sides."""
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")


def gpu_name(device: torch.device) -> str | None:
    """Return the name of the GPU, or None for a CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else None
