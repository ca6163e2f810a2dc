"""The events of a run, small and frozen, for display."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitSize:
    """The size of one dataset in the plan."""

    num_rows: int
    """Manifest rows."""
    num_shards: int
    """Shards, at most: one whose rows are all rejected is not written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanMade:
    """The plan is ready."""

    num_rows: int
    """Rows of all manifests."""
    splits: Mapping[str, SplitSize]
    """By name: ``train``, ``eval``."""
    num_shards_done: int
    """Shards that an earlier run finished and that are still valid."""
    jobs: int
    """Worker processes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """Something the user should know but need not act on: a stale receipt, a worker that died."""

    message: str
    """One line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardFinished:
    """A shard and its receipt are committed."""

    split: str
    """``train`` or ``eval``."""
    shard: int
    """Its number in the plan."""
    num_utterances: int
    """Rows kept."""
    num_rejects: int
    """Rows rejected."""
    seconds_kept: float
    """Audio in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """The progress of the run; sent at least every half second."""

    num_rows_done: int
    """Rows done, including those of earlier runs."""
    num_rows: int
    """Rows of all manifests."""
    hours_in: float
    """Audio decoded, in hours."""
    hours_kept: float
    """Audio kept, in hours."""
    num_rejects: int
    """Rows rejected."""
    audio_seconds_per_second: float
    """Audio decoded in this run divided by its time so far: how many times faster than real time."""
    eta_seconds: float | None
    """Time left at this speed, or None while no row is done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitTotals:
    """The sums over one dataset."""

    num_rows: int
    """Manifest rows; kept + rejected, but where recordings were cut."""
    num_utterances: int
    """Utterances kept."""
    num_without_text: int
    """Those of them with an empty text."""
    num_rejects: int
    """Rows, or utterances of rows that were cut, that were rejected."""
    seconds_in: float
    """Audio decoded."""
    seconds_kept: float
    """Audio kept."""
    rejects: Mapping[str, int]
    """Rows rejected, by reason, largest first."""
    num_shards: int
    """Tars."""
    num_bytes: int
    """Bytes of all tars."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """The datasets are complete."""

    splits: Mapping[str, SplitTotals]
    """By name."""
    seconds: float
    """Time of this run."""
    audio_seconds_per_second: float
    """Audio decoded in this run divided by its time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceDone:
    """The shards of a slice are prepared; the datasets are not made yet."""

    slice: str
    """As in ``--slice``."""
    num_shards: int
    """Shards of the slice."""
    num_missing: int
    """Shards of other slices that are not prepared yet."""
    seconds: float
    """Time of this run."""


Event = PlanMade | Note | ShardFinished | Progress | SliceDone | Done
