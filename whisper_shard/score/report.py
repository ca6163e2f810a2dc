"""The report of a score: slices of the utterances, warnings, and the values of score.json."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from whisper_shard.config.score import ScoreConfig
from whisper_shard.score.alignment import ErrorCounts
from whisper_shard.score.bootstrap import bootstrap_interval
from whisper_shard.score.evaluate import Evaluation
from whisper_shard.score.events import WINDOW_NAMES, Window
from whisper_shard.score.normalize import TextForm
from whisper_shard.score.wer import Score, compare_scores
from whisper_shard.storage.atomic import finite_or_none
from whisper_shard.utterance import MAX_SECONDS

SECONDS_BORDERS = (1.0, 2.0, 5.0, 10.0, 20.0)
"""Borders of the slices by duration, between 0 and 30 s."""
WINDOW_DIFFERENCE = 0.02
"""Difference in WER between full and short windows worth a warning, if its interval does not contain zero."""
CAP_SHARE = 0.01
"""Share of hypotheses cut off at the cap worth a warning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """The score of the utterances that share a property."""

    kind: str
    """The property: speaker, language or seconds."""
    name: str
    """Its value."""
    num_utterances: int
    """Number of utterances."""
    seconds: float
    """Seconds of audio in them."""
    words: ErrorCounts
    """Errors in words."""
    interval: tuple[float, float]
    """WER that 95 % of resampled corpora lie between."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowReport:
    """Scores in one kind of window."""

    window: Window
    """Kind of window."""
    loss: float
    """Mean loss of a token."""
    scores: Mapping[TextForm, Score]
    """Errors in each form of the text."""
    cap_hits: int
    """Hypotheses that were cut off at the cap."""
    slices: tuple[Slice, ...]
    """By duration, speaker and language, in the chosen form of the text."""
    seconds: float
    """Wall time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreReport:
    """A model on a dataset."""

    model: str
    """Folder or hub name of the model."""
    dataset: str
    """Folder of the dataset."""
    form: TextForm
    """The chosen form of the text."""
    num_utterances: int
    """Number of utterances."""
    audio_seconds: float
    """Seconds of audio in them."""
    windows: tuple[WindowReport, ...]
    """Full windows first, if they were scored."""
    warnings: tuple[str, ...]
    """One line each."""
    json_path: Path
    """The file with all numbers."""
    html_path: Path
    """The page for readers."""

    @property
    def score(self) -> Score:
        """The headline: the chosen form of the text, in full windows if they were scored."""
        return self.windows[0].scores[self.form]


def slice_scores(evaluation: Evaluation, speakers: Mapping[str, str | None]) -> list[Slice]:
    """Return the score by duration, speaker and language; a property with a single value makes no slices."""
    table = _utterance_table(evaluation, speakers)
    slices: list[Slice] = []
    for kind in ("seconds", "speaker", "language"):
        groups = table.groupby(f"by_{kind}", sort=True, observed=True)
        if groups.ngroups > 1:
            slices += [_slice(kind, str(name), rows) for name, rows in groups]
    return slices


def _utterance_table(evaluation: Evaluation, speakers: Mapping[str, str | None]) -> pd.DataFrame:
    """Return one row for each utterance: its errors in words, its seconds, and the slices it belongs to."""
    rows = evaluation.utterances
    table = pd.DataFrame([asdict(row.words) for row in evaluation.score.utterances])
    table["errors"] = [row.words.errors for row in evaluation.score.utterances]
    table["seconds"] = [row.seconds for row in rows]
    table["by_seconds"] = seconds_bins(table["seconds"])
    table["by_speaker"] = [speakers.get(row.key) or "unknown" for row in rows]
    table["by_language"] = [row.language or "unknown" for row in rows]
    return table


def _slice(kind: str, name: str, rows: pd.DataFrame) -> Slice:
    sums = rows[["substitutions", "deletions", "insertions", "num_reference"]].sum()
    return Slice(
        kind=kind,
        name=name,
        num_utterances=len(rows),
        seconds=float(rows["seconds"].sum()),
        words=ErrorCounts(**{str(column): int(value) for column, value in sums.items()}),
        interval=bootstrap_interval(rows["errors"], rows["num_reference"]),
    )


def seconds_bins(seconds: Sequence[float] | pd.Series) -> list[str]:
    """Return the slice of each duration, such as ``02-05 s``; sorted by name they are sorted by length."""
    edges = [0.0, *SECONDS_BORDERS, MAX_SECONDS]
    names = [f"{low:02.0f}-{high:02.0f} s" for low, high in pairwise(edges)]
    bins = pd.cut(np.asarray(seconds), [*edges[:-1], math.inf], right=False, labels=names)
    return [str(name) for name in bins]


def find_warnings(reports: Sequence[WindowReport], config: ScoreConfig) -> list[str]:
    """Return warnings about a score, one line each."""
    warnings = []
    by_window = {report.window: report.scores[config.text_form] for report in reports}
    if len(by_window) == 2:
        full, short = by_window["full"], by_window["short"]
        low, high = compare_scores(full, short).interval
        if abs(short.wer - full.wer) > WINDOW_DIFFERENCE and (low > 0 or high < 0):
            warnings.append(
                f"WER is {full.wer:.1%} in 30 s windows and {short.wer:.1%} in short windows: the model behaves "
                "differently in the two; standard tools use 30 s windows"
            )
    for report in reports:
        size = len(report.scores[config.text_form].utterances)
        windows = WINDOW_NAMES[report.window]
        if report.cap_hits > CAP_SHARE * size:
            warnings.append(
                f"{report.cap_hits} of {size} hypotheses in {windows} were cut off at "
                f"{config.max_new_tokens} tokens: raise --max-new-tokens, or the model repeats itself"
            )
        if not math.isfinite(report.loss):
            warnings.append(f"the loss in {windows} is {report.loss}: the weights are damaged")
    return warnings


def report_as_json(report: ScoreReport) -> dict[str, Any]:
    """Return a report as plain values: totals, slices, and every utterance in the chosen form."""
    return {
        "model": report.model,
        "dataset": report.dataset,
        "form": report.form,
        "num_utterances": report.num_utterances,
        "audio_seconds": report.audio_seconds,
        "warnings": list(report.warnings),
        "windows": {window.window: _window_as_json(window, report.form) for window in report.windows},
    }


def _window_as_json(window: WindowReport, form: TextForm) -> dict[str, Any]:
    return {
        "loss": finite_or_none(window.loss),
        "cap_hits": window.cap_hits,
        "seconds": round(window.seconds, 3),
        "scores": {name: _score_as_json(score) for name, score in window.scores.items()},
        "slices": [
            {
                "kind": part.kind,
                "name": part.name,
                "num_utterances": part.num_utterances,
                "seconds": part.seconds,
                "wer": part.words.rate,
                "interval": list(part.interval),
                **asdict(part.words),
            }
            for part in window.slices
        ],
        "utterances": [
            {"key": row.key, "reference": row.reference, "hypothesis": row.hypothesis, "errors": row.words.errors}
            for row in window.scores[form].utterances
        ],
    }


def _score_as_json(score: Score) -> dict[str, Any]:
    return {
        "wer": score.wer,
        "cer": score.cer,
        "interval": list(score.interval),
        "substitutions": score.substitutions,
        "deletions": score.deletions,
        "insertions": score.insertions,
        "num_reference_words": score.num_reference_words,
        "num_reference_chars": score.chars.num_reference,
    }
