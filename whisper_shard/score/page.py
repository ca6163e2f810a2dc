"""The HTML page of a score: totals, slices, and the utterances with the most errors word by word."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from whisper_shard.report.charts import Bars, Value, make_bars
from whisper_shard.report.page import render_page
from whisper_shard.score.alignment import AlignedWords
from whisper_shard.score.events import WINDOW_NAMES
from whisper_shard.score.wer import Score, UtteranceScore

if TYPE_CHECKING:
    from whisper_shard.score.report import ScoreReport, Slice, WindowReport

SHOWN_UTTERANCES = 50
"""Utterances on the page at most: those with the most errors."""
SHOWN_SLICES = 100
"""Slices of one kind on the page at most: those with the highest WER."""


def build_page(report: "ScoreReport") -> str:
    """Return the page of a report."""
    return render_page(
        "score.html",
        title=f"WER {report.score.wer:.2%}",
        interval=_percent(report.score.interval),
        summary=_summarize(report),
        warnings=report.warnings,
        totals=list(_totals(report.windows)),
        slices=[section for window in report.windows for section in _slices(window)],
        worst=_worst(report.score),
    )


def _summarize(report: "ScoreReport") -> str:
    return (
        f"{report.model} on {report.dataset}: {report.num_utterances:,} utterances, "
        f"{report.audio_seconds / 60:,.1f} minutes. The WER above: {WINDOW_NAMES[report.windows[0].window]}, text form "
        f"{report.form}."
    )


def _totals(windows: Sequence["WindowReport"]) -> Iterator[dict[str, str]]:
    for window in windows:
        for form, score in window.scores.items():
            yield {
                "window": WINDOW_NAMES[window.window],
                "text form": form,
                "WER": f"{score.wer:.2%}",
                "95 % interval": _percent(score.interval),
                "CER": f"{score.cer:.2%}",
                "sub": f"{score.substitutions:,}",
                "del": f"{score.deletions:,}",
                "ins": f"{score.insertions:,}",
                "words": f"{score.num_reference_words:,}",
                "loss": f"{window.loss:.3f}",
                "cut off": f"{window.cap_hits:,}",
            }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Slices:
    """A table of the slices of one kind in one kind of window."""

    title: str
    rows: list[dict[str, str]]
    bars: Bars
    num_more: int


def _slices(window: "WindowReport") -> Iterator[_Slices]:
    frame = pd.DataFrame(
        [_as_row(part) for part in window.slices],
        columns=["kind", "name", "num_utterances", "minutes", "wer", "interval", "insertions"],
    )
    for kind, parts in frame.groupby("kind", sort=False):
        shown = parts if len(parts) <= SHOWN_SLICES else parts.nlargest(SHOWN_SLICES, "wer")
        rows: list[Any] = list(shown.itertuples())
        values = [Value(value=row.wer, interval=row.interval) for row in rows]
        yield _Slices(
            title=f"By {kind}, {WINDOW_NAMES[window.window]}",
            rows=[_describe_slice(str(kind), row) for row in rows],
            bars=make_bars(values, label=""),
            num_more=len(parts) - len(shown),
        )


def _as_row(part: "Slice") -> tuple[object, ...]:
    words = part.words
    return part.kind, part.name, part.num_utterances, part.seconds / 60, words.rate, part.interval, words.insertions


def _describe_slice(kind: str, row: Any) -> dict[str, str]:
    return {
        kind: row.name,
        "WER": f"{row.wer:.2%}",
        "95 % interval": _percent(row.interval),
        "insertions": f"{row.insertions:,}",
        "utterances": f"{row.num_utterances:,}",
        "minutes": f"{row.minutes:,.1f}",
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class _AlignedUtterance:
    """An utterance with errors."""

    head: str
    alignment: tuple[AlignedWords, ...]


def _worst(score: Score) -> list[_AlignedUtterance]:
    wrong = sorted((row for row in score.utterances if row.words.errors), key=_most_errors_first)
    return [
        _AlignedUtterance(
            head=f"{row.key}: {_count(row.words.errors, 'error')} in {_count(row.words.num_reference, 'word')}",
            alignment=row.alignment,
        )
        for row in wrong[:SHOWN_UTTERANCES]
    ]


def _most_errors_first(row: UtteranceScore) -> tuple[int, float, str]:
    return -row.words.errors, -row.words.rate, row.key


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _percent(interval: tuple[float, float]) -> str:
    return f"{interval[0]:.2%} to {interval[1]:.2%}"
