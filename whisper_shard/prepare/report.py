"""What went in, what was kept, what was not and why: numbers, and one HTML page that needs nothing else."""

import html
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from whisper_shard.prepare.events import SplitTotals
from whisper_shard.prepare.receipts import Receipt
from whisper_shard.utterance import SAMPLE_RATE

SECONDS_EDGES = np.arange(0.0, 31.0, 1.0)
"""Borders of the duration histogram, in seconds."""
CHARS_EDGES = np.arange(0.0, 410.0, 10.0)
"""Borders of the text histogram, in characters; longer texts count in the last bar."""
SHOWN_ROWS = 30
_BAR_WIDTH, _BAR_HEIGHT = 640, 140

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:760px;margin:2em auto;padding:0 1em;color:#222}
table{border-collapse:collapse;margin:.6em 0}td,th{padding:.15em .9em .15em 0;text-align:left;border:0}
td:nth-child(n+2){text-align:right}h1{font-size:1.4em}h2{font-size:1.1em;margin-top:1.6em}
svg{background:#f6f6f4}rect{fill:#3a6ea5}text{font:11px system-ui,sans-serif;fill:#555}
"""


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
    seconds_counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(SECONDS_EDGES) - 1, np.int64))
    """Utterances in each bin of SECONDS_EDGES."""
    chars_counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(CHARS_EDGES) - 1, np.int64))
    """Utterances in each bin of CHARS_EDGES."""

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
        self.seconds_counts += count_in_bins(samples / SAMPLE_RATE, SECONDS_EDGES)
        self.chars_counts += count_in_bins(np.asarray(receipt.index["num_chars"], np.float64), CHARS_EDGES)

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


def count_in_bins(values: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return a histogram in which what lies beyond the last edge counts in the last bin."""
    counts, _ = np.histogram(np.clip(values, edges[0], np.nextafter(edges[-1], 0)), edges)
    return counts.astype(np.int64)


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
        draw_histogram(tally.seconds_counts, SECONDS_EDGES),
        "<h2>Length of texts, characters</h2>",
        draw_histogram(tally.chars_counts, CHARS_EDGES),
        *_counter_section("Rejects by reason", "reason", tally.reasons),
        *_counter_section("Languages", "language", tally.languages),
        *_counter_section("Speakers", "speaker", tally.speakers),
    ]
    if examples:
        parts += ["<h2>First rejects</h2>", _table(pd.DataFrame(list(examples)))]
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>whisper-shard: {html.escape(name)}</title>'
        f"<style>{_STYLE}</style>{''.join(parts)}</html>\n"
    )


def draw_histogram(counts: NDArray[np.int64], edges: NDArray[np.float64]) -> str:
    """Return a bar chart as inline SVG; each bar says its numbers when pointed at."""
    width, top = _BAR_WIDTH / len(counts), max(int(counts.max(initial=0)), 1)
    bars = []
    for position, count in enumerate(counts):
        height = _BAR_HEIGHT * int(count) / top
        bars.append(
            f'<rect x="{position * width:.1f}" y="{_BAR_HEIGHT - height:.1f}" width="{width - 1:.1f}" '
            f'height="{height:.1f}"><title>{edges[position]:g} to {edges[position + 1]:g}: {count:,}</title></rect>'
        )
    step = max(len(counts) // 10, 1)
    labels = [
        f'<text x="{position * width:.1f}" y="{_BAR_HEIGHT + 14}">{edges[position]:g}</text>'
        for position in range(0, len(counts), step)
    ]
    return (
        f'<svg viewBox="0 0 {_BAR_WIDTH} {_BAR_HEIGHT + 20}" width="{_BAR_WIDTH}" role="img">'
        f'{"".join(bars)}{"".join(labels)}<text x="{_BAR_WIDTH - 90}" y="12">top {top:,}</text></svg>'
    )


def _counter_section(title: str, column: str, counts: Counter[str]) -> Iterable[str]:
    if not counts:
        return []
    rows = sorted(counts.items(), key=_largest_first)
    frame = pd.DataFrame(rows[:SHOWN_ROWS], columns=[column, "rows"])
    frame["share"] = (frame["rows"] / sum(counts.values())).map("{:.1%}".format)
    more = [f"<p>and {len(rows) - SHOWN_ROWS:,} more</p>"] if len(rows) > SHOWN_ROWS else []
    return [f"<h2>{title}</h2>", _table(frame), *more]


def _table(frame: pd.DataFrame, *, header: bool = True) -> str:
    table: str = frame.to_html(index=False, header=header, border=0, escape=True)
    return table


def _largest_first(item: tuple[str, int]) -> tuple[int, str]:
    return -item[1], item[0]
