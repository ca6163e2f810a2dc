"""The page of a score: one HTML file that needs nothing else, with the worst utterances word by word."""

import html
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from whisper_shard.report.page import render_page
from whisper_shard.score.alignment import AlignedWords, align_words
from whisper_shard.score.events import WINDOW_NAMES
from whisper_shard.score.wer import Score, UtteranceScore

if TYPE_CHECKING:
    from whisper_shard.score.report import ScoreReport, Slice, WindowReport

SHOWN_UTTERANCES = 50
"""Worst utterances on the page."""
SHOWN_SLICES = 100
"""Most slices of one kind on the page: the worst."""
_STYLE = """
.warning{background:#fb04;padding:.4em .8em;margin:.4em 0}
.substitute{background:#f904}.delete{background:#f444;text-decoration:line-through}.insert{background:#48f4}
"""


def build_page(report: "ScoreReport") -> str:
    """Return the page of a report."""
    score = report.score
    title = f"WER {score.wer:.2%}"
    parts = [
        f"<h1>{title} <small>({_percent(score.interval)})</small></h1>",
        f"<p>{_text(report.model)} on {_text(report.dataset)}: {report.num_utterances:,} utterances, "
        f"{report.audio_seconds / 60:,.1f} minutes; headline: {WINDOW_NAMES[report.windows[0].window]}, text form "
        f"{report.form}.</p>",
        *(f'<div class="warning">{_text(warning)}</div>' for warning in report.warnings),
        _totals(report.windows),
        *(_slices(window) for window in report.windows),
        _worst(score),
    ]
    return render_page(title, "".join(parts), style=_STYLE)


def _totals(windows: Sequence["WindowReport"]) -> str:
    rows = [
        (
            WINDOW_NAMES[window.window],
            form,
            f"{score.wer:.2%}",
            _percent(score.interval),
            f"{score.cer:.2%}",
            f"{score.substitutions:,}",
            f"{score.deletions:,}",
            f"{score.insertions:,}",
            f"{score.num_reference_words:,}",
            f"{window.loss:.3f}",
            f"{window.cap_hits:,}",
        )
        for window in windows
        for form, score in window.scores.items()
    ]
    heads = ("window", "text form", "WER", "95 % interval", "CER", "sub", "del", "ins", "words", "loss", "cut off")
    return _table(heads, rows, texts=2)


def _slices(window: "WindowReport") -> str:
    parts = []
    for kind in dict.fromkeys(part.kind for part in window.slices):
        chosen = [part for part in window.slices if part.kind == kind]
        if len(chosen) > SHOWN_SLICES:
            chosen = sorted(chosen, key=_slice_rate, reverse=True)[:SHOWN_SLICES]
        rows = [
            (
                part.name,
                f"{part.num_utterances:,}",
                f"{part.seconds / 60:,.1f}",
                f"{part.words.rate:.2%}",
                _percent(part.interval),
                f"{part.words.insertions:,}",
            )
            for part in chosen
        ]
        heads = (kind, "utterances", "minutes", "WER", "95 % interval", "insertions")
        parts.append(f"<h2>By {kind}, {WINDOW_NAMES[window.window]}</h2>{_table(heads, rows)}")
    return "".join(parts)


def _slice_rate(part: "Slice") -> float:
    return part.words.rate


def _worst(score: Score) -> str:
    wrong = sorted((row for row in score.utterances if row.words.errors), key=_badness)[:SHOWN_UTTERANCES]
    if not wrong:
        return "<h2>Worst utterances</h2><p>None: every word is right.</p>"
    rows = "".join(
        f'<p><span class="small">{_text(row.key)}: {_count(row.words.errors, "error")} '
        f"in {_count(row.words.num_reference, 'word')}</span>"
        f"<br>{_alignment(align_words(row.reference, row.hypothesis))}</p>"
        for row in wrong
    )
    legend = (
        '<p><span class="substitute">reference &rarr; heard</span> <span class="delete">not heard</span> '
        '<span class="insert">only heard</span></p>'
    )
    return f"<h2>Worst utterances</h2>{legend}{rows}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _badness(row: UtteranceScore) -> tuple[int, float, str]:
    return -row.words.errors, -row.words.rate, row.key


def _alignment(chunks: Iterable[AlignedWords]) -> str:
    return " ".join(_chunk(chunk) for chunk in chunks)


def _chunk(chunk: AlignedWords) -> str:
    if chunk.kind == "equal":
        return _text(chunk.reference)
    words = [_text(part) for part in (chunk.reference, chunk.hypothesis) if part]
    return f'<span class="{chunk.kind}">{" &rarr; ".join(words)}</span>'


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, texts: int = 1) -> str:
    """Return a table whose first columns are texts and the others numbers."""
    head = "".join(f"<th{_class(i, texts)}>{_text(name)}</th>" for i, name in enumerate(heads))
    body = "".join(
        f"<tr>{''.join(f'<td{_class(i, texts)}>{_text(cell)}</td>' for i, cell in enumerate(row))}</tr>" for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def _class(column: int, texts: int) -> str:
    return ' class="n"' if column >= texts else ""


def _percent(interval: tuple[float, float]) -> str:
    return f"{interval[0]:.2%} to {interval[1]:.2%}"


def _text(value: str) -> str:
    return html.escape(value)
