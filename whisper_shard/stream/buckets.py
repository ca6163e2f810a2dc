"""Length buckets: how many there are, where their borders lie, and which one each unit belongs to.

Borders depend on the lengths in the index only, not on seed or epoch.
"""

import numpy as np
from numpy.typing import NDArray

from whisper_shard.stream.units import BatchRule, Units
from whisper_shard.utterance import HOP_LENGTH, MAX_SAMPLES, SAMPLE_RATE

CHUNK = 1 << 20
"""Units that are worked on at a time: bounds the memory beside the index."""


def choose_num_buckets(units: Units, rule: BatchRule) -> int:
    """Return how many buckets there are: each has two batches or more, else the same units would meet every epoch."""
    total_seconds = float(np.sum(units.num_samples, dtype=np.float64)) / SAMPLE_RATE
    batches = total_seconds / rule.batch_seconds if rule.batch_seconds else len(units.num_samples) / rule.batch_size
    return max(1, min(rule.length_buckets, int(batches / 2)))


def bucket_borders(num_samples: NDArray[np.int32], num_buckets: int) -> NDArray[np.uint8]:
    """Return the bucket of each length in frames, 0 to 30 s.

    Within a narrow bucket of n units and width w about n * w / 2 is padding. For a given number of buckets the sum is
    least where n * w is the same in all of them, so borders are set at equal steps of the integral of sqrt(density).
    """
    density = np.zeros(MAX_SAMPLES // HOP_LENGTH + 1, np.int64)
    for start in range(0, len(num_samples), CHUNK):
        density += np.bincount(num_samples[start : start + CHUNK] // HOP_LENGTH, minlength=len(density))
    integral = np.cumsum(np.sqrt(density))
    share = (integral - np.sqrt(density)) / max(float(integral[-1]), 1.0)
    buckets = np.minimum((share * num_buckets).astype(np.int64), num_buckets - 1)
    return np.unique(buckets, return_inverse=True)[1].astype(np.uint8)


def count_values(values: NDArray[np.uint8], num_values: int) -> NDArray[np.int64]:
    """Count 0, 1, ... num_values - 1, a chunk at a time: `bincount` makes a copy eight times as large."""
    counts = np.zeros(num_values, np.int64)
    for start in range(0, len(values), CHUNK):
        counts += np.bincount(values[start : start + CHUNK], minlength=num_values)
    return counts


def assign_buckets(bucket_of_length: NDArray[np.uint8], num_samples: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Return the bucket of each unit, (N,)."""
    buckets = np.empty(len(num_samples), np.uint8)
    for start in range(0, len(num_samples), CHUNK):
        buckets[start : start + CHUNK] = bucket_of_length[num_samples[start : start + CHUNK] // HOP_LENGTH]
    return buckets
