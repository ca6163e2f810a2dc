"""A score report: slices, warnings, and the values of score.json."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from whisper_shard.config.score import ScoreConfig
from whisper_shard.score.alignment import ErrorCounts
from whisper_shard.score.bootstrap import bootstrap_interval
from whisper_shard.score.evaluate import Evaluation
from whisper_shard.score.events import WINDOW_NAMES, Window
from whisper_shard.score.hf_metric import load_error_rates
from whisper_shard.score.normalize import TextForm
from whisper_shard.score.wer import Score, UtteranceScore, paired_bootstrap
from whisper_shard.storage.atomic import finite_or_none

SECONDS_BORDERS = (1.0, 2.0, 5.0, 10.0, 20.0)
"""Borders of the slices by duration."""
WINDOWS_APART = 0.02
"""A difference in WER between full and short windows that is worth a warning, if the bootstrap sees it too."""
CAP_SHARE = 0.01
"""A share of hypotheses cut off at the cap that is worth a warning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """The score of a part of the utterances."""

    kind: str
    """What they have in common: speaker, language or seconds."""
    name: str
    """Its value."""
    num_utterances: int
    """How many there are."""
    seconds: float
    """Audio in them."""
    words: ErrorCounts
    """Errors in words."""
    interval: tuple[float, float]
    """WER that 95 % of resampled corpora lie between."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowReport:
    """All there is to say about one kind of window."""

    window: Window
    """Kind of window."""
    loss: float
    """Mean loss of a token."""
    scores: Mapping[TextForm, Score]
    """Errors in each form of the text."""
    cap_hits: int
    """Hypotheses that were cut off at the cap."""
    slices: tuple[Slice, ...]
    """By speaker, language and duration, in the chosen form of the text."""
    seconds: float
    """Wall time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreReport:
    """A model on a dataset."""

    model: str
    """Folder or name of the model."""
    dataset: str
    """Folder of the dataset."""
    form: TextForm
    """The chosen form of the text."""
    num_utterances: int
    """Utterances scored."""
    audio_seconds: float
    """Audio in them."""
    windows: tuple[WindowReport, ...]
    """The full window first, where it was asked for."""
    warnings: tuple[str, ...]
    """What a reader must know, a line each."""
    json_path: Path
    """All numbers."""
    html_path: Path
    """A page to look at."""

    @property
    def score(self) -> Score:
        """The headline: the chosen form in full windows, where they were asked for."""
        return self.windows[0].scores[self.form]


def slice_scores(score: Score, evaluation: Evaluation, speakers: Mapping[str, str | None]) -> list[Slice]:
    """Return the score by speaker, language and duration; a property with one value only makes no slices."""
    properties = {
        row.key: {
            "speaker": speakers.get(row.key),
            "language": row.language,
            "seconds": seconds_bin(row.seconds),
        }
        for row in evaluation.utterances
    }
    seconds = {row.key: row.seconds for row in evaluation.utterances}
    slices = []
    for kind in ("seconds", "speaker", "language"):
        groups: dict[str, list[UtteranceScore]] = {}
        for row in score.utterances:
            groups.setdefault(properties[row.key][kind] or "unknown", []).append(row)
        if len(groups) > 1:
            slices += [_slice(kind, name, groups[name], seconds) for name in sorted(groups)]
    return slices


def _slice(kind: str, name: str, rows: Sequence[UtteranceScore], seconds: Mapping[str, float]) -> Slice:
    return Slice(
        kind=kind,
        name=name,
        num_utterances=len(rows),
        seconds=sum(seconds[row.key] for row in rows),
        words=sum((row.words for row in rows), ErrorCounts()),
        interval=bootstrap_interval([row.words for row in rows]),
    )


def seconds_bin(seconds: float) -> str:
    """Return the name of the slice by duration, such as ``02-05 s``; sorted by name they are sorted by length."""
    edges = (0.0, *SECONDS_BORDERS, 30.0)
    place = int(np.searchsorted(SECONDS_BORDERS, seconds, side="right"))
    return f"{edges[place]:02.0f}-{edges[place + 1]:02.0f} s"


def find_warnings(reports: Sequence[WindowReport], config: ScoreConfig) -> list[str]:
    """Return what a reader must know of a score, a line each."""
    warnings = []
    by_window = {report.window: report.scores[config.text_form] for report in reports}
    if len(by_window) == 2:
        full, short = by_window["full"], by_window["short"]
        low, high = paired_bootstrap(full, short).interval
        if abs(short.wer - full.wer) > WINDOWS_APART and (low > 0 or high < 0):
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
    rates = load_error_rates().compute(
        references=[row.reference for row in score.utterances], predictions=[row.hypothesis for row in score.utterances]
    )
    return {
        "wer": rates["wer"],
        "cer": score.cer,
        "interval": list(score.interval),
        "substitutions": score.substitutions,
        "deletions": score.deletions,
        "insertions": score.insertions,
        "num_reference_words": score.num_reference_words,
        "num_reference_chars": score.chars.num_reference,
    }
