"""Several processes train one model: each takes its part of every batch, and their gradients are summed.

torchrun starts the processes and gives each its rank; `join_ranks` connects them. A single process runs the same code,
with sums over one rank. `gradient_sums` sums the gradients.

Source: torchrun's environment (RANK, WORLD_SIZE, LOCAL_RANK), https://docs.pytorch.org/docs/stable/elastic/run.html.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from whisper_shard.errors import ConfigError, TrainingError

TIMEOUT = timedelta(minutes=30)
"""A rank that does not answer for this long has failed: the longest wait is for another rank to finish its part."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranks:
    """This process among those that train together."""

    rank: int = 0
    """From 0; rank 0 writes files and reports progress."""
    world: int = 1
    """Number of processes."""
    control: Any = None
    """Process group for small exchanges on the CPU; None with one process."""
    saving: Any = None
    """Process group of the threads that write checkpoints; None with one process."""

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and reports progress."""
        return self.rank == 0


def join_ranks(device: torch.device) -> Ranks:
    """Connect the processes that torchrun started; a single process is a group of one.

    Raises:
        ConfigError: torchrun's environment is incomplete.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return Ranks()
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise ConfigError(
            f"WORLD_SIZE is {world} but {', '.join(missing)} is not set; start with bin/train-ddp or torchrun"
        )
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
    control = dist.new_group(backend="gloo", timeout=TIMEOUT) if device.type == "cuda" else dist.group.WORLD
    saving = dist.new_group(backend="gloo", timeout=TIMEOUT)
    return Ranks(rank=dist.get_rank(), world=world, control=control, saving=saving)


def leave_ranks(ranks: Ranks) -> None:
    """Close the connection to the other processes; a single process has none."""
    if ranks.world > 1 and dist.is_initialized():
        dist.destroy_process_group()


@contextmanager
def explain_lost_rank(ranks: Ranks) -> Iterator[None]:
    """Turn the errors of a broken connection between ranks into one line.

    Raises:
        TrainingError: Another rank is gone or does not answer.
    """
    try:
        yield
    except RuntimeError as error:
        if ranks.world == 1 or isinstance(error, torch.OutOfMemoryError):
            raise
        reason = next(iter(str(error).splitlines()), repr(error))
        raise TrainingError(
            f"rank {ranks.rank} of {ranks.world} lost contact with another rank, killed or failed ({reason}); "
            "run the same command again: training goes on from the last checkpoint"
        ) from error


@contextmanager
def explain_lost_rank_in_pass(ranks: Ranks) -> Iterator[None]:
    """The same for a pass through sharded weights, in which most errors have nothing to do with other ranks.

    Raises:
        TrainingError: Another rank is gone or does not answer.
    """
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        with explain_lost_rank(ranks):
            raise


def sum_over_ranks(numbers: torch.Tensor, ranks: Ranks) -> torch.Tensor:
    """Return the sum of a small tensor over all ranks; it stays on its device.

    Raises:
        TrainingError: Another rank is gone.
    """
    if ranks.world == 1:
        return numbers
    total = numbers.clone()
    with explain_lost_rank(ranks):
        dist.all_reduce(total, group=ranks.control if total.device.type == "cpu" else None)
    return total


def gather_rows(rows: NDArray[np.int64], ranks: Ranks) -> list[NDArray[np.int64]]:
    """Return the rows of every rank, in order of rank; ranks may have different numbers of rows.

    Args:
        rows: Shape (B, columns); the same columns on every rank.
        ranks: The processes that train together.

    Raises:
        TrainingError: Another rank is gone.
    """
    if ranks.world == 1:
        return [rows]
    with explain_lost_rank(ranks):
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(ranks.world)]
        dist.all_gather(sizes, torch.tensor([len(rows)]), group=ranks.control)
        padded = torch.zeros(max(int(size) for size in sizes), rows.shape[1], dtype=torch.int64)
        padded[: len(rows)] = torch.from_numpy(rows)
        parts = [torch.zeros_like(padded) for _ in sizes]
        dist.all_gather(parts, padded, group=ranks.control)
    return [part[: int(size)].numpy() for part, size in zip(parts, sizes, strict=True)]


def gather_texts(texts: Sequence[str], ranks: Ranks) -> list[str]:
    """Return the texts of all ranks, those of rank 0 first; for rare cases such as reports of faulty utterances.

    Raises:
        TrainingError: Another rank is gone.
    """
    data = np.frombuffer("\0".join(texts).encode(), np.uint8).astype(np.int64).reshape(-1, 1)
    parts = [bytes(part[:, 0].astype(np.uint8)).decode() for part in gather_rows(data, ranks)]
    return [text for part in parts for text in part.split("\0") if text]


def barrier(ranks: Ranks) -> None:
    """Wait until every rank has called this.

    Raises:
        TrainingError: Another rank is gone.
    """
    sum_over_ranks(torch.zeros(1), ranks)
