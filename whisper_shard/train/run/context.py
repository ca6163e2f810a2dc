"""What every part of a run needs: settings, folder, device and ranks, the stop request and the progress callback."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from whisper_shard.config.train import ComputeConfig, TrainConfig
from whisper_shard.model.device import choose_device, choose_precision, set_threads, set_up_gpu
from whisper_shard.train.events import Progress
from whisper_shard.train.ranks import Ranks, join_ranks, leave_ranks
from whisper_shard.train.run.folder import RunFolder
from whisper_shard.train.signals import StopRequest

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # Source: mallopt(3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Device, precision and ranks of a run."""

    device: torch.device
    """Where this rank computes."""
    dtype: torch.dtype
    """Format of matrix products."""
    ranks: Ranks
    """The processes that train together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunContext:
    """What every part of a run needs, and none of them changes."""

    config: TrainConfig
    """The settings."""
    folder: RunFolder
    """Where checkpoints, metrics and the model are written."""
    machine: Machine
    """Where the run computes."""
    request: StopRequest
    """Holds the signal that asks to stop, once it has come."""
    progress: Progress
    """Called with each event, on rank 0."""


@contextmanager
def open_machine(config: ComputeConfig) -> Iterator[Machine]:
    """Choose device, precision and threads, and join the other ranks until the run ends.

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
    """Ask the C library to keep freed memory: otherwise the big tensors of each step are mapped and cleared anew.

    Does nothing where the C library is not glibc. Source: mallopt(3).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, -1)
