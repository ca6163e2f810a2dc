"""The device, precision and ranks of a run."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from whisper_shard.config.train import TrainConfig
from whisper_shard.model.device import choose_device, choose_precision, set_threads, set_up_gpu
from whisper_shard.train.ranks import Ranks, join_ranks, leave_ranks

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # Source: mallopt(3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Where a run computes, and with whom."""

    device: torch.device
    """This rank's."""
    dtype: torch.dtype
    """Format of matrix products."""
    ranks: Ranks
    """Who takes part."""


@contextmanager
def open_machine(config: TrainConfig) -> Iterator[Machine]:
    """Choose device, precision and threads, and join the other ranks for the time of the run.

    Raises:
        ConfigError: The precision does not work on the device, or torchrun's environment is incomplete.
    """
    device = choose_device()
    dtype = choose_precision(config.precision, device)
    set_up_gpu(device)
    ranks = join_ranks(device)
    set_threads(config.threads)
    if device.type == "cpu":
        keep_freed_memory()
    try:
        yield Machine(device=device, dtype=dtype, ranks=ranks)
    finally:
        leave_ranks(ranks)


def keep_freed_memory() -> None:
    """Ask the allocator to keep what is freed: a step's big tensors else are mapped and cleared anew each time.

    Does nothing where the C library is not glibc. Source: mallopt(3).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, -1)
