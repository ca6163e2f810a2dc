"""The report of a score: its parts, warnings, and the values of score.json."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from whisper_shard.config.score import ScoreConfig
from whisper_shard.score.compare import Comparison, comparison_as_json
from whisper_shard.score.evaluation import EvaluatedUtterance
from whisper_shard.score.events import WINDOW_NAMES, Window
from whisper_shard.score.normalize import TextForm
from whisper_shard.score.outputs import OutputCounts
from whisper_shard.score.slices import Slice
from whisper_shard.score.times import TimeErrors
from whisper_shard.score.wer import Score, compare_scores
from whisper_shard.storage.atomic import finite_or_none

WINDOW_DIFFERENCE = 0.02
"""Difference in WER between full and short windows worth a warning, if its interval does not contain zero."""
OUTPUT_SHARE = 0.01
"""Share of hypotheses cut off at the cap, of empty ones, and of looping ones, worth a warning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowReport:
    """Scores in one kind of window."""

    window: Window
    """Kind of window."""
    loss: float
    """Mean loss of a token; NaN: not known."""
    scores: Mapping[TextForm, Score]
    """Errors in each form of the text."""
    outputs: OutputCounts
    """Hypotheses that are no transcripts, in the chosen form of the text."""
    times: TimeErrors | None
    """Times of hypotheses against those of the data; None: decoded without times."""
    slices: tuple[Slice, ...]
    """By each column, in the chosen form of the text."""
    seconds: float
    """Wall time; NaN: not known."""
    utterances: tuple[EvaluatedUtterance, ...]
    """With texts as they are, sorted by key."""

    @property
    def audio_seconds(self) -> float:
        """Seconds of audio."""
        return sum(row.seconds for row in self.utterances)

    @property
    def real_time_factor(self) -> float:
        """Wall time over seconds of audio, waiting for data included; NaN: not known."""
        return self.seconds / self.audio_seconds if self.audio_seconds else math.nan


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
    comparison: Comparison | None
    """Against another score, in the first kind of windows; None: none was asked for."""
    settings: Mapping[str, str]
    """What the values depend on, by name."""
    warnings: tuple[str, ...]
    """One line each."""
    json_path: Path
    """The file with all numbers."""
    html_path: Path
    """The page for readers."""
    table_path: Path
    """The table with every hypothesis."""

    @property
    def score(self) -> Score:
        """The headline: the chosen form of the text, in full windows if they were scored."""
        return self.windows[0].scores[self.form]


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
        warnings += _warn_of_outputs(report, config)
        if report.window != "given" and not math.isfinite(report.loss):
            warnings.append(f"the loss in {WINDOW_NAMES[report.window]} is {report.loss}: the weights are damaged")
    return warnings


def _warn_of_outputs(report: WindowReport, config: ScoreConfig) -> Iterator[str]:
    counts, where = report.outputs, WINDOW_NAMES[report.window]
    least = OUTPUT_SHARE * counts.num_utterances
    if counts.num_capped > least:
        yield (
            f"{counts.num_capped} of {counts.num_utterances} hypotheses in {where} were cut off at "
            f"{config.max_new_tokens} tokens: raise --max-new-tokens, or the model repeats itself"
        )
    if counts.num_looping > least:
        yield f"{counts.num_looping} of {counts.num_utterances} hypotheses in {where} repeat a phrase over and over"
    if counts.num_invented:
        yield f"{counts.num_invented} of {counts.num_silent} hypotheses in {where} have words where nothing is said"
    if counts.num_empty > least:
        yield f"{counts.num_empty} of {counts.num_utterances} hypotheses in {where} are empty where something is said"


def report_as_json(report: ScoreReport) -> dict[str, Any]:
    """Return a report as plain values: totals, slices, and every utterance in the chosen form."""
    return {
        "model": report.model,
        "dataset": report.dataset,
        "form": report.form,
        "num_utterances": report.num_utterances,
        "audio_seconds": report.audio_seconds,
        "settings": dict(report.settings),
        "against": comparison_as_json(report.comparison) if report.comparison else None,
        "warnings": list(report.warnings),
        "windows": {window.window: _window_as_json(window, report.form) for window in report.windows},
    }


def _window_as_json(window: WindowReport, form: TextForm) -> dict[str, Any]:
    return {
        "loss": finite_or_none(window.loss),
        "cap_hits": window.outputs.num_capped,
        "outputs": {**asdict(window.outputs)},
        "times": _times_as_json(window.times) if window.times else None,
        "seconds": finite_or_none(round(window.seconds, 3)),
        "real_time_factor": finite_or_none(round(window.real_time_factor, 6)),
        "scores": {name: _score_as_json(score) for name, score in window.scores.items()},
        "slices": [_slice_as_json(part) for part in window.slices],
        "utterances": [
            {
                "key": row.key,
                "reference": row.reference,
                "hypothesis": row.hypothesis,
                "errors": score.words.errors,
                "words": score.words.num_reference,
            }
            for row, score in zip(window.utterances, window.scores[form].utterances, strict=True)
        ],
    }


def _times_as_json(found: TimeErrors) -> dict[str, Any]:
    return {name: finite_or_none(value) for name, value in asdict(found).items()}


def _slice_as_json(part: Slice) -> dict[str, Any]:
    return {
        "kind": part.kind,
        "name": part.name,
        "num_utterances": part.num_utterances,
        "is_small": part.is_small,
        "seconds": part.seconds,
        "wer": part.words.rate,
        "cer": part.chars.rate,
        "interval": list(part.interval),
        **asdict(part.words),
    }


def _score_as_json(score: Score) -> dict[str, Any]:
    return {
        "wer": score.wer,
        "cer": score.cer,
        "interval": list(score.interval),
        "cer_interval": list(score.cer_interval),
        "substitutions": score.substitutions,
        "deletions": score.deletions,
        "insertions": score.insertions,
        "num_reference_words": score.num_reference_words,
        "num_reference_chars": score.chars.num_reference,
    }
