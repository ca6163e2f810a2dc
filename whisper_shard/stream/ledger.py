"""The delivery ledger: proof, from two counts and two hashes, that an epoch delivered each utterance as planned.

Every utterance has a 64-bit hash of its number; sums of hashes (modulo 2^64) do not depend on order, so what ranks
and workers delivered is added up, and must equal the sum over the plan. A lost utterance and a doubled one cannot
make up for each other, as equal counts alone would let them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whisper_shard.errors import StateError
from whisper_shard.stream.batch import Batch


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerLine:
    """One epoch's account: of one rank, or of all when combined."""

    epoch: int
    """Epoch, from 0."""
    first_step: int
    """Step at which the account begins: not 0 where the run was resumed in the middle of the epoch."""
    planned: int
    """Utterances that all ranks together should get from there on."""
    planned_hash: int
    """Sum of their hashes."""
    delivered: int = 0
    """Utterances that arrived."""
    delivered_hash: int = 0
    """Sum of their hashes."""
    skipped: int = 0
    """Utterances that were skipped because they are damaged; each is named in the log."""
    skipped_hash: int = 0
    """Sum of their hashes."""

    @property
    def is_complete(self) -> bool:
        """Whether each planned utterance was delivered exactly once, or skipped and named."""
        found = self.delivered + self.skipped, (self.delivered_hash + self.skipped_hash) % 2**64
        return found == (self.planned, self.planned_hash)

    def to_json(self) -> dict[str, Any]:
        """Return the line as plain JSON values, hashes as hexadecimal text."""
        hashes = {name: f"{value:016x}" for name, value in asdict(self).items() if name.endswith("_hash")}
        return asdict(self) | hashes | {"is_complete": self.is_complete}


class Ledger:
    """Counts what one rank receives."""

    def __init__(self) -> None:
        self._accounts: dict[int, LedgerLine] = {}

    def add(self, batch: Batch) -> None:
        """Count a batch's utterances."""
        line = self._accounts.get(batch.epoch, _empty(batch.epoch))
        skipped = [fault.id for fault in batch.faults]
        self._accounts[batch.epoch] = replace(
            line,
            delivered=line.delivered + len(batch.ids),
            delivered_hash=(line.delivered_hash + sum_hashes(batch.ids)) % 2**64,
            skipped=line.skipped + len(skipped),
            skipped_hash=(line.skipped_hash + sum_hashes(skipped)) % 2**64,
        )

    def line(self, epoch: int, *, first_step: int, planned: Iterable[NDArray[Any]]) -> LedgerLine:
        """Return an epoch's line.

        Args:
            epoch: The epoch.
            first_step: Step at which this run entered it.
            planned: Numbers of the utterances that all ranks should get from that step on, in pieces.
        """
        count = total = 0
        for numbers in planned:
            count += len(numbers)
            total += sum_hashes(numbers)
        line = self._accounts.get(epoch, _empty(epoch))
        return replace(line, first_step=first_step, planned=count, planned_hash=total % 2**64)


def combine_lines(lines: Sequence[LedgerLine]) -> LedgerLine:
    """Add up the lines that all ranks have of one epoch.

    Raises:
        StateError: They are not lines of one plan.
    """
    first = lines[0]
    for line in lines:
        for name in ("epoch", "first_step", "planned", "planned_hash"):
            if getattr(line, name) != getattr(first, name):
                raise StateError(
                    f"ledger: ranks disagree on {name}: {getattr(first, name)} and {getattr(line, name)}; "
                    "were they started with the same data and state?"
                )
    return replace(
        first,
        delivered=sum(line.delivered for line in lines),
        delivered_hash=sum(line.delivered_hash for line in lines) % 2**64,
        skipped=sum(line.skipped for line in lines),
        skipped_hash=sum(line.skipped_hash for line in lines) % 2**64,
    )


def sum_hashes(numbers: Sequence[int] | NDArray[Any]) -> int:
    """Return the sum modulo 2^64 of the numbers' hashes.

    Source: Steele et al., "Fast splittable pseudorandom number generators", OOPSLA 2014 (splitmix64).
    """
    words = np.asarray(numbers, np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return int(np.sum(words ^ (words >> np.uint64(31)), dtype=np.uint64))


def _empty(epoch: int) -> LedgerLine:
    return LedgerLine(epoch=epoch, first_step=0, planned=0, planned_hash=0)
