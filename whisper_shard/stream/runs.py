"""Runs: the stretches of the shards that a rank reads, in the order in which its steps need them.

The steps of a block are read together (`Plan.read_together`). The utterances that this rank needs of them are
neighbours in shards that are sorted by length, so that one read of some megabytes replaces dozens of small ones. Each
byte is read once an epoch. The runs follow from the plan and the index alone, so that all processes of a rank number
them alike without exchanging a word.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from whisper_shard.dataset.index import Dataset, IndexReader
from whisper_shard.stream.timetable import Step, Timetable

MAX_RUN_BYTES = 16 << 20
"""Longer runs are read in several parts, at the same time."""
_CACHED_SHARDS = 512  # shards whose extents stay in memory, 16 bytes an utterance


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A stretch of a shard that is read at once and kept until its last utterance has been delivered."""

    number: int
    """Counted from the start of the stream, in the order of reading."""
    dataset: int
    """Position of the dataset among those that are mixed."""
    shard: int
    """Number of the shard in it."""
    offset: int
    """First byte."""
    num_bytes: int
    """Length."""
    first_step: int
    """Step from which on it is needed, counted over all epochs."""
    last_step: int
    """Last step that needs it."""


class Extents:
    """Where the utterances of a dataset lie in its shards."""

    def __init__(self, dataset: Dataset) -> None:
        self._ends = np.cumsum([shard.num_utterances for shard in dataset.shards])
        self._of_shard = lru_cache(_CACHED_SHARDS)(IndexReader(dataset).extents)

    def locate(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return (shard, first byte, byte after the last) of rows of the whole index, (N, 3).

        Raises:
            DatasetError: The index is damaged.
        """
        shards = np.searchsorted(self._ends, rows, side="right")
        found = np.empty((len(rows), 3), np.int64)
        found[:, 0] = shards
        for shard in np.unique(shards).tolist():
            here = shards == shard
            places = rows[here] - self._ends[shard]  # negative: counted from the shard's end
            found[here, 1:] = self._of_shard(shard)[places]
        return found


class RunSequence:
    """The runs of one rank from a step on; iterating again begins again."""

    def __init__(self, timetable: Timetable, start: Step, stop_epoch: int | None) -> None:
        """Prepare to read the index.

        Args:
            timetable: Rows of this rank.
            start: First step of the stream.
            stop_epoch: The epoch before which it ends; None: never.
        """
        self._timetable = timetable
        self._start = start
        self._stop_epoch = stop_epoch
        self._extents = [Extents(dataset) for dataset in timetable.datasets]

    def __iter__(self) -> Iterator[list[Run]]:
        """Yield, for each step in order, the runs that it is the first to need.

        Raises:
            DatasetError: The index is damaged.
        """
        number = 0
        for place in self._timetable.places(self._start, self._stop_epoch, worker=0, workers=1):
            runs = self._open_runs(place, number)
            number += len(runs)
            yield runs

    def _open_runs(self, place: Step, number: int) -> list[Run]:
        """Return the runs of the block that begins with this step; none if it has begun before."""
        first = self._start.step if place.epoch == self._start.epoch else 0
        steps = [step for step in self._timetable.read_together(place) if step >= first]
        if place.step != steps[0]:
            return []
        parts = [self._timetable.utterances(Step(epoch=place.epoch, step=step)) for step in steps]
        utterances = np.concatenate(parts)
        step_of = place.epoch * self._timetable.steps + np.repeat(steps, [len(part) for part in parts])
        runs: list[Run] = []
        for dataset, rows, here in self._timetable.split(utterances):
            extents = self._extents[dataset].locate(rows)
            for members in _cut_into_runs(extents):
                shard, offset, _ = extents[members[0]].tolist()
                runs.append(
                    Run(
                        number=number + len(runs),
                        dataset=dataset,
                        shard=shard,
                        offset=offset,
                        num_bytes=int(extents[members[-1], 2]) - offset,
                        first_step=self._timetable.number(place),
                        last_step=int(step_of[here[members]].max()),
                    )
                )
        return runs


def _cut_into_runs(extents: NDArray[np.int64]) -> Iterator[NDArray[np.intp]]:
    """Yield the positions of extents that are neighbours in one shard, at most `MAX_RUN_BYTES` together."""
    order = np.lexsort((extents[:, 1], extents[:, 0]))
    shards, starts, ends = extents[order].T
    is_neighbour = (shards[1:] == shards[:-1]) & (starts[1:] <= ends[:-1])
    for stretch in np.split(order, np.flatnonzero(~is_neighbour) + 1):
        size = int(extents[stretch[-1], 2] - extents[stretch[0], 1]) if len(stretch) else 0
        if size <= MAX_RUN_BYTES:
            yield from [stretch] if len(stretch) else []
            continue
        part = (extents[stretch, 1] - extents[stretch[0], 1]) // MAX_RUN_BYTES
        yield from np.split(stretch, np.flatnonzero(np.diff(part)) + 1)
