"""What a run says while it runs: small frozen reports, for whoever shows them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

StepObserver = Callable[[str], None]
"""Is told the name of each commit step when it is over; crash tests hang on here. Must be picklable."""


def named_steps(name: str, observer: StepObserver) -> StepObserver:
    """Return an observer that puts ``name.`` before each step."""
    return partial(_tell, observer, name)


def _tell(observer: StepObserver, name: str, step: str) -> None:
    observer(f"{name}.{step}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitSize:
    """How much of the corpus goes into one dataset."""

    num_rows: int
    """Manifest rows."""
    num_shards: int
    """Shards they will fill, at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanMade:
    """The work is laid out."""

    num_rows: int
    """Rows of all manifests."""
    splits: Mapping[str, SplitSize]
    """By name: ``train``, ``eval``."""
    num_shards_done: int
    """Shards that an earlier run has finished and that still count."""
    jobs: int
    """Workers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """Something a user should know but need not act on: a stale receipt, a worker that died."""

    message: str
    """One line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardFinished:
    """A shard is committed, and its receipt too."""

    split: str
    """``train`` or ``eval``."""
    shard: int
    """Its number in the plan."""
    num_utterances: int
    """Rows kept."""
    num_rejects: int
    """Rows not kept."""
    seconds_kept: float
    """Audio in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far the run is; comes at least every half second."""

    num_rows_done: int
    """Rows that are over, those of earlier runs included."""
    num_rows: int
    """All rows."""
    hours_in: float
    """Audio decoded, in hours."""
    hours_kept: float
    """Audio kept, in hours."""
    num_rejects: int
    """Rows rejected."""
    audio_seconds_per_second: float
    """Audio decoded in this run over its time so far: how many times faster than real time."""
    eta_seconds: float | None
    """Time left at this pace, or None while nothing is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitTotals:
    """What is in one dataset."""

    num_rows: int
    """Manifest rows; kept + rejected."""
    num_utterances: int
    """Rows kept."""
    num_rejects: int
    """Rows not kept."""
    seconds_in: float
    """Audio decoded."""
    seconds_kept: float
    """Audio kept."""
    rejects: Mapping[str, int]
    """Count of each reason, largest first."""
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
    """Audio decoded in this run over its time."""


Event = PlanMade | Note | ShardFinished | Progress | Done
