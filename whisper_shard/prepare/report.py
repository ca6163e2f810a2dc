"""What went in, what was kept, what was not and why: numbers, and one HTML page that needs nothing else."""

import html
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from whisper_shard.prepare.events import SplitTotals
from whisper_shard.prepare.receipts import Receipt
from whisper_shard.report.page import render_page
from whisper_shard.utterance import SAMPLE_RATE

SECONDS_BIN = 0.1
"""Width of the bins in which durations are counted, in seconds."""
NUM_SECONDS_BINS = 300
"""Up to 30 s, beyond which nothing is kept."""
NUM_CHARS_BINS = 4_000
"""Bins of one character; longer texts count in the last."""
MAX_BARS = 40
"""Bars of a chart at most."""
_SHOWN_SHARE = 0.995
_LONG_TAIL = 1.5
SHOWN_ROWS = 30
_BAR_WIDTH, _BAR_HEIGHT = 640, 140
_STYLE = "svg{background:#8881}rect{fill:#5b8fc7}"


def _no_counts(num_bins: int) -> NDArray[np.int64]:
    return np.zeros(num_bins, np.int64)


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
    languages: Counter[str] = field(default_factory=Counter)
    """Utterances by language."""
    speakers: Counter[str] = field(default_factory=Counter)
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
        self.reasons.update(reason for reason in receipt.rows["reason"] if reason is not None)
        self.languages.update(language for language in receipt.index["language"] if language)
        self.speakers.update(speaker for speaker in receipt.index["speaker"] if speaker)
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
    """Return how often each bin occurs; what lies beyond the last counts in the last."""
    return np.bincount(np.minimum(bins, num_bins - 1), minlength=num_bins)


def render_report(name: str, tally: Tally, examples: Sequence[Mapping[str, object]]) -> str:
    """Return the HTML page of one dataset.

    Args:
        name: ``train`` or ``eval``.
        tally: Its counts.
        examples: The first rejects: row, source, reason, detail.
    """
    totals = tally.totals()
    share = totals.num_utterances / max(totals.num_rows, 1)
    head = pd.DataFrame(
        [
            ("manifest rows", f"{totals.num_rows:,}"),
            ("kept", f"{totals.num_utterances:,} ({share:.1%})"),
            ("rejected", f"{totals.num_rejects:,}"),
            ("hours decoded", f"{totals.seconds_in / 3600:,.2f}"),
            ("hours kept", f"{totals.seconds_kept / 3600:,.2f}"),
            ("shards", f"{totals.num_shards:,}"),
            ("bytes", f"{totals.num_bytes:,}"),
        ]
    )
    parts = [
        f"<h1>whisper-shard: {html.escape(name)}</h1>",
        _table(head, header=False),
        "<h2>Length of utterances, seconds</h2>",
        draw_histogram(tally.seconds_counts, SECONDS_BIN),
        "<h2>Length of texts, characters</h2>",
        draw_histogram(tally.chars_counts, 1),
        *_counter_section("Rejects by reason", "reason", tally.reasons),
        *_counter_section("Languages", "language", tally.languages),
        *_counter_section("Speakers", "speaker", tally.speakers),
    ]
    if examples:
        parts += ["<h2>First rejects</h2>", _table(pd.DataFrame(list(examples)), kind="texts")]
    return render_page(f"whisper-shard: {name}", "".join(parts), style=_STYLE)


def draw_histogram(counts: NDArray[np.int64], width: float) -> str:
    """Return a bar chart as inline SVG that reaches over the values there are; each bar says its numbers.

    Args:
        counts: Of each bin, from 0.
        width: Of a bin, in the unit of the axis.
    """
    if not counts.any():
        return "<p>none</p>"
    bars, edges, is_open = fit_bars(counts, width)
    step, top = _BAR_WIDTH / len(bars), int(bars.max())
    parts = []
    for position, num_values in enumerate(bars):
        height = _BAR_HEIGHT * int(num_values) / top
        is_last = position == len(bars) - 1
        span = f"{edges[position]:g} " + ("and more" if is_open and is_last else f"to {edges[position + 1]:g}")
        parts.append(
            f'<rect x="{position * step:.1f}" y="{_BAR_HEIGHT - height:.1f}" width="{step - 1:.1f}" '
            f'height="{height:.1f}"><title>{span}: {num_values:,}</title></rect>'
        )
    every = max(math.ceil(len(bars) / 10), 1)
    parts += [
        f'<text x="{position * step:.1f}" y="{_BAR_HEIGHT + 14}">{edges[position]:g}</text>'
        for position in range(0, len(bars), every)
    ]
    return (
        f'<svg viewBox="0 -18 {_BAR_WIDTH} {_BAR_HEIGHT + 38}" width="{_BAR_WIDTH}" role="img">'
        f'{"".join(parts)}<text x="{_BAR_WIDTH}" y="-5" text-anchor="end">highest bar: {top:,}</text></svg>'
    )


def fit_bars(counts: NDArray[np.int64], width: float) -> tuple[NDArray[np.int64], NDArray[np.float64], bool]:
    """Join bins to at most MAX_BARS bars over the values there are.

    Args:
        counts: Of each bin, from 0; not all zero.
        width: Of a bin.

    Returns:
        The count of each bar, their borders, and whether the last bar also holds what lies beyond it: a few values that
        are far above all others do not get an axis of their own.
    """
    filled = np.flatnonzero(counts)
    first, last = int(filled[0]), int(filled[-1])
    common = int(np.searchsorted(counts.cumsum(), _SHOWN_SHARE * counts.sum()))
    if last + 1 > _LONG_TAIL * (common + 1):
        last = common
    join = next(size for size in _round_sizes() if last // size - first // size < MAX_BARS)
    first_bar, num_bars = first // join, last // join - first // join + 1
    shown = counts[first_bar * join : (first_bar + num_bars) * join]
    bars = np.pad(shown, (0, num_bars * join - len(shown))).reshape(num_bars, join).sum(axis=1)
    beyond = int(counts.sum() - bars.sum())
    bars[-1] += beyond
    edges = np.arange(first_bar, first_bar + num_bars + 1, dtype=np.float64) * (join * width)
    return bars, edges, beyond > 0


def _round_sizes() -> Iterator[int]:
    for power in count():
        yield from (10**power, 2 * 10**power, 5 * 10**power)


def _counter_section(title: str, column: str, counts: Counter[str]) -> Iterable[str]:
    if not counts:
        return []
    rows = sorted(counts.items(), key=_largest_first)
    frame = pd.DataFrame(rows[:SHOWN_ROWS], columns=[column, "rows"])
    frame["share"] = (frame["rows"] / sum(counts.values())).map("{:.1%}".format)
    more = [f"<p>and {len(rows) - SHOWN_ROWS:,} more</p>"] if len(rows) > SHOWN_ROWS else []
    return [f"<h2>{title}</h2>", _table(frame), *more]


def _table(frame: pd.DataFrame, *, header: bool = True, kind: str = "numbers") -> str:
    table: str = frame.to_html(index=False, header=header, border=0, escape=True, classes=kind)
    return table


def _largest_first(item: tuple[str, int]) -> tuple[int, str]:
    return -item[1], item[0]
