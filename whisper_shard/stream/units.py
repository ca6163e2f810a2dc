"""What the plan orders, units, and the rule by which they become batches."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int32]
"""Numbers of units, from 0 over all datasets; -1 is padding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Units:
    """All that the plan knows of the corpus: one entry a unit, in order of (dataset, shard, row)."""

    num_samples: NDArray[np.int32]
    """Length of each unit at 16 kHz."""
    num_chars: NDArray[np.int32]
    """Length of each unit's text."""
    shard_sizes: tuple[NDArray[np.int64], ...]
    """For each dataset: units in each of its shards."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRule:
    """How units are made into batches."""

    batch_size: int = 64
    """Units a step, over all ranks."""
    batch_seconds: float = 0.0
    """If not 0: most padded seconds a step, over all ranks, instead of batch_size."""
    length_buckets: int = 32
    """Kinds of length that batches are made of; 1: lengths are mixed at random."""
    weights: tuple[float, ...] = ()
    """Passes over each dataset in an epoch, above 0; empty: one each."""


def pad_front(ids: Ids, size: int) -> Ids:
    """Fill up to ``size`` with -1 in front."""
    return np.concatenate([np.full(size - len(ids), -1, np.int32), ids])
