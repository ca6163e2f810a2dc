"""The delivery ledger: two counts and two hashes that show whether an epoch delivered each utterance as planned.

Every utterance has a 64-bit hash of its number; sums of hashes (modulo 2^64) do not depend on order, so what ranks
and workers delivered, before and after a resume, is added up and must equal the sum over the plan. A lost utterance and
a repeated one do not cancel each other, as they would if only counts were compared.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whisper_shard.stream.batch import Batch

MODULUS = 2**64
"""Sums of hashes wrap around here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """What an epoch should deliver to all ranks together."""

    utterances: int
    """How many."""
    digest: int
    """Sum of their hashes."""


@dataclass(slots=True, kw_only=True)
class Ledger:
    """What has been delivered of one epoch, to one rank or to all; all of it are sums."""

    delivered: int = 0
    """Utterances that arrived."""
    delivered_digest: int = 0
    """Sum of their hashes."""
    skipped: int = 0
    """Utterances that were skipped because they are damaged; each is named in the log."""
    skipped_digest: int = 0
    """Sum of their hashes."""

    def add(self, batch: Batch) -> None:
        """Add a batch."""
        self.delivered += len(batch.ids)
        self.delivered_digest = (self.delivered_digest + sum_hashes(batch.ids)) % MODULUS
        if batch.faults:
            skipped = [fault.id for fault in batch.faults]
            self.skipped += len(skipped)
            self.skipped_digest = (self.skipped_digest + sum_hashes(skipped)) % MODULUS

    def is_complete(self, planned: Planned) -> bool:
        """Return whether each planned utterance was delivered exactly once, or skipped and named."""
        found = self.delivered + self.skipped, (self.delivered_digest + self.skipped_digest) % MODULUS
        return found == (planned.utterances, planned.digest)


def sum_hashes(numbers: Sequence[int] | NDArray[Any]) -> int:
    """Return the sum modulo 2^64 of the numbers' hashes.

    Source: Steele et al., "Fast splittable pseudorandom number generators", OOPSLA 2014 (splitmix64).
    """
    words = np.asarray(numbers, np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return int(np.sum(words ^ (words >> np.uint64(31)), dtype=np.uint64))
