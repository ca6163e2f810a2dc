"""The counts of a run: how much is done, how fast it goes, and whether too many rows are rejected."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.errors import ManifestError
from whisper_shard.prepare.events import Done, Progress, SplitTotals
from whisper_shard.prepare.receipts import DUPLICATE, ShardCounts
from whisper_shard.prepare.workers.heartbeat import WorkerStatus


@dataclass(slots=True, kw_only=True)
class RunCounts:
    """The sums over all finished shards, of this run and of earlier ones."""

    num_rows: int
    """Rows of all manifests."""
    started: float
    """time.monotonic() at the beginning of this run."""
    num_rows_done: int = 0
    """Rows kept or rejected."""
    num_kept: int = 0
    """Utterances kept."""
    rejects: Counter[str] = field(default_factory=Counter)
    """Rows rejected, by reason."""
    examples: dict[str, str] = field(default_factory=dict)
    """For each reason, one of its rows in words."""
    seconds_in: float = 0.0
    """Audio decoded."""
    seconds_kept: float = 0.0
    """Audio kept."""
    rows_before: int = 0
    """Rows of shards that earlier runs finished."""
    seconds_before: float = 0.0
    """Audio that earlier runs decoded."""

    @property
    def num_rejects(self) -> int:
        """Rows rejected."""
        return self.rejects.total()

    def add(self, shard: ShardCounts, *, is_earlier: bool = False) -> None:
        """Add a finished shard; ``is_earlier``: an earlier run finished it, so it does not count for the speed."""
        self.num_rows_done += shard.num_rows
        self.num_kept += shard.num_utterances
        self.rejects.update(shard.rejects)
        self.examples = {**shard.examples, **self.examples}
        self.seconds_in += shard.seconds_in
        self.seconds_kept += shard.seconds_kept
        if is_earlier:
            self.rows_before += shard.num_rows
            self.seconds_before += shard.seconds_in


def check_rejects(counts: RunCounts, config: PrepareConfig) -> None:
    """Check that not too many rows are rejected; called after each shard, so that a hopeless run ends early.

    Raises:
        ManifestError: More rows are rejected than allowed; lists the reasons.
    """
    # A recording that is cut may give more rejects than there are rows.
    num_results = max(counts.num_rows, counts.num_kept + counts.num_rejects)
    num_rejects = counts.num_rejects - counts.rejects[DUPLICATE]  # those say nothing of columns and folders
    if num_rejects > config.max_reject_fraction * num_results and counts.num_kept:
        what = "rows" if num_results == counts.num_rows else "utterances"
        raise ManifestError(
            f"{num_rejects} of {num_results} {what} are rejected, more than --max-reject-fraction "
            f"{config.max_reject_fraction:g} allows: {_describe_rejects(counts)}; fix the corpus, or raise the limit "
            "and run the same command again"
        )


def check_kept(corpus: object, counts: RunCounts, config: PrepareConfig) -> None:
    """Check, before the datasets are assembled, that rows were kept, and enough of them.

    Raises:
        ManifestError: No row was kept, or too many were rejected; lists the reasons.
    """
    if not counts.num_kept:
        raise ManifestError(f"{corpus}: none of its {counts.num_rows} rows can be used: {_describe_rejects(counts)}")
    check_rejects(counts, config)


def _describe_rejects(counts: RunCounts) -> str:
    """List the reasons, with an example of the most frequent one: it shows a wrong folder or column at a glance."""
    reasons = counts.rejects.most_common()
    most_common, _ = reasons[0]
    hint = "; relative paths are relative to the folder of the corpus" if most_common == "missing_file" else ""
    shown = ", ".join(f"{reason} {count}" for reason, count in reasons)
    return f"{shown}; for example {counts.examples[most_common]}{hint}"


def as_progress(counts: RunCounts, statuses: Sequence[WorkerStatus]) -> Progress:
    """Return the progress of the run, including the unfinished shards that workers are at."""
    num_done = counts.num_rows_done + sum(s.num_rows for s in statuses)
    seconds_in = counts.seconds_in + sum(s.seconds_in for s in statuses)
    elapsed = max(time.monotonic() - counts.started, 1e-6)
    rows_now = num_done - counts.rows_before
    return Progress(
        num_rows_done=num_done,
        num_rows=counts.num_rows,
        hours_in=seconds_in / 3600,
        hours_kept=(counts.seconds_kept + sum(s.seconds_kept for s in statuses)) / 3600,
        num_rejects=counts.num_rejects + sum(s.num_rejects for s in statuses),
        audio_seconds_per_second=(seconds_in - counts.seconds_before) / elapsed,
        eta_seconds=elapsed * (counts.num_rows - num_done) / rows_now if rows_now > 0 else None,
    )


def as_done(totals: Mapping[str, SplitTotals], counts: RunCounts) -> Done:
    """Return the last event of a run."""
    seconds = time.monotonic() - counts.started
    speed = (counts.seconds_in - counts.seconds_before) / seconds
    return Done(splits=totals, seconds=seconds, audio_seconds_per_second=speed)
