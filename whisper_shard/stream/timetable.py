"""Which utterances stand in which row, on which step, on this rank: the plan as one process follows it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from whisper_shard.config.stream import StreamConfig
from whisper_shard.dataset.index import Dataset
from whisper_shard.stream.batch import Record
from whisper_shard.stream.evaluation_order import ALL_STEPS, SortedPlan
from whisper_shard.stream.packing import Windows, keep_alone, pack_units, read_groups, read_units
from whisper_shard.stream.plan import Plan, check_world
from whisper_shard.stream.units import BatchRule, Ids


class Order(Protocol):
    """A plan: units of a step."""

    @property
    def steps(self) -> int:
        """Steps in an epoch."""
        ...

    def batch_rows(self, epoch: int, step: int, *, world: int) -> int:
        """Return the rows of a step on each rank, padding included."""
        ...

    def units_from(self, epoch: int, step: int) -> Iterator[Ids]:
        """Yield the units of all ranks from a step of an epoch to its end, in pieces of any order."""
        ...

    def part(self, epoch: int, step: int, *, rank: int, world: int) -> Ids:
        """Return one rank's units of a step, -1 for padding."""
        ...

    def read_together(self, epoch: int, step: int) -> list[int]:
        """Return the steps, in order, whose units are read together with those of a step."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of the run."""

    epoch: int
    """From 0."""
    step: int
    """Within the epoch, from 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    """What a process works out from the index, and never sends to another."""

    order: Order
    """The plan."""
    windows: Windows | None
    """Who shares a window, if windows are packed."""
    num_samples: NDArray[np.int32]
    """Length of each utterance."""


class Timetable:
    """Rows of one rank for any step. Pickles as its settings; each process builds its own plan from the index."""

    def __init__(
        self,
        datasets: Sequence[Dataset],
        config: StreamConfig,
        *,
        rank: int = 0,
        world: int = 1,
        evaluation_limit: int | None = None,
        evaluation_steps: slice = ALL_STEPS,
    ) -> None:
        """Check that the batch can be shared.

        Args:
            datasets: What is streamed.
            config: How.
            rank: This rank, from 0.
            world: Number of ranks.
            evaluation_limit: If given, the order is that of evaluation: shortest first, once, this many utterances
                (0: all).
            evaluation_steps: Only these batches of an evaluation.

        Raises:
            ConfigError: ``batch_size`` is no multiple of ``world``.
        """
        self.datasets = tuple(datasets)
        self.config = config
        self.rank = rank
        self.world = world
        self.evaluation_limit = evaluation_limit
        self.evaluation_steps = evaluation_steps
        check_world(batch_rule(config), rank=rank, world=world)
        self._firsts = np.cumsum([0, *(dataset.num_utterances for dataset in datasets)])

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name != "_parts"}

    @cached_property
    def _parts(self) -> "_Parts":
        config = self.config
        utterances = read_units(self.datasets)
        lengths = utterances.num_samples
        if self.evaluation_limit is not None:
            order = SortedPlan(
                lengths, batch_size=config.batch_size, limit=self.evaluation_limit, steps=self.evaluation_steps
            )
            return _Parts(order=order, windows=None, num_samples=lengths)
        units, windows = utterances, None
        if config.pack_by:
            groups = keep_alone(read_groups(self.datasets, config.pack_by), share=config.pack_share, seed=config.seed)
            units, windows = pack_units(utterances, groups, gap_seconds=config.pack_gap_seconds, seed=config.seed)
        return _Parts(order=Plan(units, batch_rule(config), seed=config.seed), windows=windows, num_samples=lengths)

    @property
    def order(self) -> Order:
        """The plan of all ranks."""
        return self._parts.order

    @property
    def steps(self) -> int:
        """Steps in an epoch."""
        return self.order.steps

    def number(self, place: Step) -> int:
        """Return the number of a step counted over all epochs."""
        return place.epoch * self.steps + place.step

    def places(self, start: Step, stop_epoch: int | None, *, worker: int, workers: int) -> Iterator[Step]:
        """Yield every ``workers``-th step from ``start`` on, beginning with number ``worker``.

        Args:
            start: First step of the run.
            stop_epoch: The epoch before which to stop; None: never.
            worker: This process, from 0.
            workers: How many share the work.
        """
        number = self.number(start) + worker
        while self.steps and (stop_epoch is None or number < stop_epoch * self.steps):
            yield Step(epoch=number // self.steps, step=number % self.steps)
            number += workers

    def utterances_from(self, place: Step) -> Iterator[NDArray[np.int32]]:
        """Yield the utterances of all ranks from a step to the end of its epoch, in pieces of any order."""
        for units in self.order.units_from(place.epoch, place.step):
            yield units if self._parts.windows is None else self._parts.windows.members_of(units)

    def read_together(self, place: Step) -> list[int]:
        """Return the steps of its epoch, in order, whose utterances are read together with those of a step."""
        return self.order.read_together(place.epoch, place.step)

    def utterances(self, place: Step) -> NDArray[np.int32]:
        """Return the utterances of this rank's part of a step, in any order."""
        units = self.order.part(place.epoch, place.step, rank=self.rank, world=self.world)
        units = units[units >= 0]
        return units if self._parts.windows is None else self._parts.windows.members_of(units)

    def split(self, utterances: NDArray[np.int32]) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.int64]]]:
        """Yield (dataset, rows of its index, their positions) for the datasets that some utterances come from."""
        datasets = np.searchsorted(self._firsts, utterances, side="right") - 1
        for dataset in np.unique(datasets).tolist():
            here = np.flatnonzero(datasets == dataset)
            yield dataset, utterances[here].astype(np.int64) - self._firsts[dataset], here

    def rows(self, place: Step) -> int:
        """Return how many rows this rank's batch has, padding included."""
        return self.order.batch_rows(place.epoch, place.step, world=self.world)

    def records(self, place: Step, *, rank: int | None = None) -> Iterator[Record]:
        """Yield a record for each utterance of a step, in order of row; padding rows have none.

        Args:
            place: The step.
            rank: Whose rows; None: those of this rank.
        """
        rank = self.rank if rank is None else rank
        units = self.order.part(place.epoch, place.step, rank=rank, world=self.world).tolist()
        windows, num_samples = self._parts.windows, self._parts.num_samples
        if windows is None:
            rows = [[(unit, 0)] if unit >= 0 else [] for unit in units]
        else:
            rows = [windows.arrange(place.epoch, unit) if unit >= 0 else [] for unit in units]
        flat = [(row, number, gap) for row, members in enumerate(rows) for number, gap in members]
        numbers = np.array([number for _, number, _ in flat], np.int64)
        lengths = num_samples[numbers].tolist()
        datasets = np.searchsorted(self._firsts, numbers, side="right") - 1
        index_rows = (numbers - self._firsts[datasets]).tolist()
        ends = [0] * len(rows)
        for (row, _, gap), length in zip(flat, lengths, strict=True):
            ends[row] += gap + length
        width = max(ends, default=0)
        for (row, number, gap), length, dataset, index_row in zip(
            flat, lengths, datasets.tolist(), index_rows, strict=True
        ):
            yield {
                "epoch": place.epoch,
                "step": place.step,
                "row": row,
                "width": width,
                "packed": len(rows[row]) > 1,
                "gap": gap,
                "id": number,
                "dataset": dataset,
                "index_row": index_row,
                "num_samples": length,
            }


def batch_rule(config: StreamConfig) -> BatchRule:
    """Return the part of the settings that decides how utterances become batches."""
    return BatchRule(
        batch_size=config.batch_size,
        batch_seconds=config.batch_seconds,
        length_buckets=config.length_buckets,
        weights=config.weights,
    )
