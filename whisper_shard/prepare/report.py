"""The report of a prepared dataset: what was kept, what was rejected and why, as numbers and as an HTML page."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from whisper_shard.prepare.events import SplitTotals
from whisper_shard.prepare.receipts import Receipt, count_rejects
from whisper_shard.report.charts import Bars, Value, make_bars, make_histogram
from whisper_shard.report.page import render_page
from whisper_shard.utterance import SAMPLE_RATE

SECONDS_BIN = 0.1
"""Width of the bins in which durations are counted, in seconds."""
NUM_SECONDS_BINS = 300
"""Up to 30 s, the longest utterance that is kept."""
NUM_CHARS_BINS = 4_000
"""Bins of one character; longer transcripts are counted in the last."""
MAX_NAMES = 100_000
"""Languages, and speakers, that are counted one by one."""
SHOWN_ROWS = 30
"""Rows of a table on the page at most."""


def _no_counts(num_bins: int) -> NDArray[np.int64]:
    return np.zeros(num_bins, np.int64)


@dataclass(slots=True, kw_only=True)
class NameCounts:
    """Counts by name, in bounded memory: names after the first MAX_NAMES are counted together."""

    by_name: Counter[str] = field(default_factory=Counter)
    """Count of each name."""
    num_other: int = 0
    """Count of all further names."""

    def add(self, names: Iterable[str | None]) -> None:
        """Count names; None and the empty string are no names."""
        for name, number in Counter(name for name in names if name).items():
            if name in self.by_name or len(self.by_name) < MAX_NAMES:
                self.by_name[name] += number
            else:
                self.num_other += number


@dataclass(slots=True, kw_only=True)
class Tally:
    """Counts over all receipts of a split, small however large the corpus is."""

    num_rows: int = 0
    """Manifest rows."""
    num_samples: int = 0
    """Samples kept, at 16 kHz."""
    seconds_in: float = 0.0
    """Audio decoded."""
    num_shards: int = 0
    """Tars."""
    num_bytes: int = 0
    """Bytes of all tars."""
    num_utterances: int = 0
    """Rows kept."""
    reasons: Counter[str] = field(default_factory=Counter)
    """Rejects by reason."""
    languages: NameCounts = field(default_factory=NameCounts)
    """Utterances by language."""
    speakers: NameCounts = field(default_factory=NameCounts)
    """Utterances by speaker."""
    seconds_counts: NDArray[np.int64] = field(default_factory=partial(_no_counts, NUM_SECONDS_BINS))
    """Utterances in each bin of SECONDS_BIN."""
    chars_counts: NDArray[np.int64] = field(default_factory=partial(_no_counts, NUM_CHARS_BINS))
    """Utterances with each number of characters."""

    def add(self, receipt: Receipt) -> None:
        """Count one shard."""
        samples = np.asarray(receipt.index["num_samples"], np.int64)
        self.num_rows += len(receipt.rows["row"])
        self.num_samples += int(samples.sum())
        self.seconds_in += sum(receipt.rows["seconds"])
        self.num_shards += receipt.info.num_bytes > 0
        self.num_bytes += receipt.info.num_bytes
        self.num_utterances += len(samples)
        self.reasons.update(count_rejects(receipt))
        self.languages.add(receipt.index["language"])
        self.speakers.add(receipt.index["speaker"])
        # Whole numbers, so that an utterance of exactly 0.3 s does not land in the bin below.
        self.seconds_counts += count_in_bins(samples // round(SECONDS_BIN * SAMPLE_RATE), NUM_SECONDS_BINS)
        self.chars_counts += count_in_bins(np.asarray(receipt.index["num_chars"], np.int64), NUM_CHARS_BINS)

    def totals(self) -> SplitTotals:
        """Return the sums."""
        return SplitTotals(
            num_rows=self.num_rows,
            num_utterances=self.num_utterances,
            num_rejects=sum(self.reasons.values()),
            seconds_in=round(self.seconds_in, 3),
            seconds_kept=self.num_samples / SAMPLE_RATE,
            rejects=dict(sorted(self.reasons.items(), key=_largest_first)),
            num_shards=self.num_shards,
            num_bytes=self.num_bytes,
        )


def count_in_bins(bins: NDArray[np.int64], num_bins: int) -> NDArray[np.int64]:
    """Return how often each bin occurs; values beyond the last bin are counted in the last."""
    return np.bincount(np.minimum(bins, num_bins - 1), minlength=num_bins)


def render_report(name: str, tally: Tally, rejects: Sequence[Mapping[str, object]]) -> str:
    """Return the HTML page of one dataset.

    Args:
        name: ``train`` or ``eval``.
        tally: Its counts.
        rejects: The first rejected rows: row, source, reason, detail, seconds.
    """
    return render_page(
        "dataset.html",
        name=name,
        totals=_describe_totals(tally.totals()),
        seconds=make_histogram(tally.seconds_counts, SECONDS_BIN, unit="seconds", counted="utterances"),
        chars=make_histogram(tally.chars_counts, 1, unit="characters", counted="utterances"),
        sections=list(_sections(tally)),
        rejects=list(map(_describe_reject, rejects)),
    )


def _describe_totals(totals: SplitTotals) -> dict[str, str]:
    share = totals.num_utterances / max(totals.num_rows, 1)
    return {
        "manifest rows": f"{totals.num_rows:,}",
        "kept": f"{totals.num_utterances:,} ({share:.1%})",
        "rejected": f"{totals.num_rejects:,}",
        "hours decoded": f"{totals.seconds_in / 3600:,.2f}",
        "hours kept": f"{totals.seconds_kept / 3600:,.2f}",
        "shards": f"{totals.num_shards:,}",
        "bytes": f"{totals.num_bytes:,}",
    }


def _describe_reject(reject: Mapping[str, object]) -> dict[str, object]:
    return {name: reject[name] for name in ("source", "reason", "detail", "row", "seconds")}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Section:
    """A table of counts by name, the largest first."""

    title: str
    rows: list[dict[str, str]]
    bars: Bars
    num_more: int
    num_other: int


def _sections(tally: Tally) -> Iterator[_Section]:
    yield from _section("Rejects by reason", "reason", "rows", NameCounts(by_name=tally.reasons))
    yield from _section("Languages", "language", "utterances", tally.languages)
    yield from _section("Speakers", "speaker", "utterances", tally.speakers)


def _section(title: str, column: str, counted: str, counts: NameCounts) -> Iterator[_Section]:
    """Yield the section of some counts, or nothing where there are none."""
    items = sorted(counts.by_name.items(), key=_largest_first)
    total = sum(counts.by_name.values()) + counts.num_other
    if not items:
        return
    yield _Section(
        title=title,
        rows=[
            {column: name, counted: f"{number:,}", "share": f"{number / total:.1%}"}
            for name, number in items[:SHOWN_ROWS]
        ],
        bars=make_bars([Value(value=number) for _, number in items[:SHOWN_ROWS]], label=""),
        num_more=max(len(items) - SHOWN_ROWS, 0),
        num_other=counts.num_other,
    )


def _largest_first(item: tuple[str, int]) -> tuple[int, str]:
    return -item[1], item[0]
