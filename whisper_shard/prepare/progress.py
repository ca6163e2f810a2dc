"""The ledger of a run: what is done, how fast it goes, and whether it may go on."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.errors import ManifestError
from whisper_shard.prepare.events import Done, Progress, SplitTotals
from whisper_shard.prepare.receipts import Receipt, describe_reject
from whisper_shard.prepare.workers.heartbeat import Status
from whisper_shard.utterance import SAMPLE_RATE


@dataclass(slots=True, kw_only=True)
class Ledger:
    """What has been done so far, by this run and by those before."""

    num_rows: int
    """All rows there are."""
    started: float
    """time.monotonic() at the beginning of this run."""
    num_kept: int = 0
    """Rows kept in finished shards."""
    reasons: Counter[str] = field(default_factory=Counter)
    """Rejects in finished shards."""
    examples: dict[str, str] = field(default_factory=dict)
    """For each reason, one of its rows in words."""
    seconds_in: float = 0.0
    """Audio decoded for finished shards."""
    seconds_kept: float = 0.0
    """Audio in finished shards."""
    rows_before: int = 0
    """Rows that earlier runs have done."""
    seconds_before: float = 0.0
    """Audio that earlier runs have decoded."""

    @property
    def num_rejects(self) -> int:
        """Rejects in finished shards."""
        return sum(self.reasons.values())

    def add(
        self,
        *,
        kept: int,
        reasons: Mapping[str, int],
        examples: Mapping[str, str],
        seconds_in: float,
        seconds_kept: float,
    ) -> None:
        """Enter one finished shard."""
        self.num_kept += kept
        self.reasons.update(reasons)
        self.examples = {**examples, **self.examples}
        self.seconds_in += seconds_in
        self.seconds_kept += seconds_kept


def enter_receipt(receipt: Receipt, ledger: Ledger, *, corpus: Path) -> None:
    """Enter a shard that an earlier run has finished; ``corpus`` is the folder of its manifest."""
    seconds_in = sum(receipt.rows["seconds"])
    rejects = zip(*(receipt.rows[name] for name in ("reason", "row", "source", "detail")), strict=True)
    ledger.add(
        kept=receipt.info.num_utterances,
        reasons=Counter(reason for reason in receipt.rows["reason"] if reason is not None),
        examples={
            reason: describe_reject(row, corpus / source, detail)
            for reason, row, source, detail in rejects
            if reason is not None
        },
        seconds_in=seconds_in,
        seconds_kept=sum(receipt.index["num_samples"]) / SAMPLE_RATE,
    )
    ledger.rows_before += len(receipt.rows["row"])
    ledger.seconds_before += seconds_in


def check_rejects(ledger: Ledger, config: PrepareConfig) -> None:
    """Stop as soon as no good end is possible.

    Raises:
        ManifestError: More rows are rejected than may be; lists the reasons.
    """
    if ledger.num_rejects > config.max_reject_fraction * ledger.num_rows and ledger.num_kept:
        raise ManifestError(
            f"{ledger.num_rejects} of {ledger.num_rows} rows are rejected, more than --max-reject-fraction "
            f"{config.max_reject_fraction:g} allows: {_describe_reasons(ledger)}; fix the corpus, or raise the limit "
            "and run the same command again"
        )


def check_kept(corpus: Path, ledger: Ledger, config: PrepareConfig) -> None:
    """Refuse to make a dataset of nothing, or of too little.

    Raises:
        ManifestError: No row was kept, or too many were rejected; lists the reasons.
    """
    if not ledger.num_kept:
        raise ManifestError(f"{corpus}: none of its {ledger.num_rows} rows can be used: {_describe_reasons(ledger)}")
    check_rejects(ledger, config)


def _describe_reasons(ledger: Ledger) -> str:
    """Count the reasons, and show a row of the most frequent one: a wrong folder or column is seen at a glance."""
    counts = ledger.reasons.most_common()
    hint = "; relative paths are relative to the folder of the CSV" if counts[0][0] == "missing_file" else ""
    shown = ", ".join(f"{reason} {count}" for reason, count in counts)
    return f"{shown}; for example {ledger.examples[counts[0][0]]}{hint}"


def as_progress(ledger: Ledger, statuses: Sequence[Status]) -> Progress:
    """Add what is under way to what is done."""
    num_done = ledger.num_kept + ledger.num_rejects + sum(s.num_rows for s in statuses)
    seconds_in = ledger.seconds_in + sum(s.seconds_in for s in statuses)
    elapsed = max(time.monotonic() - ledger.started, 1e-6)
    rows_now = num_done - ledger.rows_before
    return Progress(
        num_rows_done=num_done,
        num_rows=ledger.num_rows,
        hours_in=seconds_in / 3600,
        hours_kept=(ledger.seconds_kept + sum(s.seconds_kept for s in statuses)) / 3600,
        num_rejects=ledger.num_rejects + sum(s.num_rejects for s in statuses),
        audio_seconds_per_second=(seconds_in - ledger.seconds_before) / elapsed,
        eta_seconds=elapsed * (ledger.num_rows - num_done) / rows_now if rows_now > 0 else None,
    )


def as_done(totals: Mapping[str, SplitTotals], ledger: Ledger) -> Done:
    """Return the last event of a run."""
    seconds = time.monotonic() - ledger.started
    speed = (ledger.seconds_in - ledger.seconds_before) / seconds
    return Done(splits=totals, seconds=seconds, audio_seconds_per_second=speed)
