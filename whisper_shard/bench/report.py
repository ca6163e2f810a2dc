"""What a loader benchmark finds."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTime:
    """What one stage costs."""

    name: str
    """read, verify, decode, augment, collate, transfer or log_mel."""
    seconds: float
    """Seconds an utterance, in one process."""
    where: str
    """``loader`` (each loader process), ``training`` (the training process) or ``device``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoaderRate:
    """How fast batches come with some number of loader processes."""

    workers: int
    """Loader processes."""
    utterances_per_second: float
    """Rate."""
    audio_hours_per_second: float
    """Rate, padding not counted."""
    mb_per_second: float
    """Bytes of audio and JSON read from the shards, in 10^6."""
    reads: int
    """Reads of shards, or requests to object storage, since the loader was opened."""
    mb_fetched: float
    """Megabytes of these."""
    first_batch_seconds: float
    """From opening the loader to its first batch."""
    wait_p50_seconds: float
    """Median time the training process waits for a batch it asks for at once."""
    wait_p99_seconds: float
    """99th percentile of the same."""
    headroom: float | None
    """Training step time over loader time a step; above 1 the loader keeps up. None without a step time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochReads:
    """What one epoch takes from object storage, by the plan of one rank that reads alone."""

    requests: int
    """GET requests."""
    gigabytes: float
    """Bytes fetched, in 10^9."""
    fetched_over_used: float
    """Bytes fetched over bytes of audio and JSON; what is above 1 are tar headers and padding."""
    dollars: float
    """At the prices of the settings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchReport:
    """What a benchmark found."""

    dataset: str
    """Folder, or folders that are mixed."""
    num_utterances: int
    """In the data."""
    hours: float
    """In the data."""
    batch_utterances: float
    """Mean utterances a step."""
    padding_share: float
    """Share of all samples of the batches that is padding, 0 to 1."""
    step_seconds: float | None
    """Training step time, where known."""
    stages: tuple[StageTime, ...]
    """In order of the pipeline."""
    rates: tuple[LoaderRate, ...]
    """In order of loader processes."""
    epoch: EpochReads
    """Requests, bytes and price of an epoch from object storage."""
    bounding_stage: str
    """The stage that costs most in the recommended setting."""
    recommended_workers: int
    """Fewest loader processes that are enough."""
    advice: str
    """One or two sentences."""
    machine: dict[str, Any]
    """Cores, processor, versions."""

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain JSON values."""
        return asdict(self)
