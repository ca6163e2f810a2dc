"""A model on a dataset, in full: WER and CER in both windows and all forms of the text, slices, and two files of it.

This is what the command ``score`` does. The numbers go to score.json, and to score.html for eyes.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from whisper_shard.config import ScoreConfig
from whisper_shard.errors import TrainingError
from whisper_shard.formats.index import Dataset, open_dataset
from whisper_shard.formats.storage import as_environment_fault, atomic_file, write_json
from whisper_shard.stream.loader import open_evaluation
from whisper_shard.train.device import choose_device, choose_precision, set_threads, set_up_gpu
from whisper_shard.train.evaluation import BatchEvaluator, Evaluation, EvaluationPart, Window, finish_evaluation
from whisper_shard.train.events import WINDOW_NAMES
from whisper_shard.train.metrics import finite_or_none
from whisper_shard.train.model import LoadedWhisper, load_whisper
from whisper_shard.train.scorepage import build_page
from whisper_shard.train.scoring import (
    TEXT_FORMS,
    ErrorCounts,
    Score,
    TextForm,
    UtteranceScore,
    bootstrap_interval,
    load_error_rates,
    paired_bootstrap,
)
from whisper_shard.train.tokens import Labeler

SECONDS_BORDERS = (1.0, 2.0, 5.0, 10.0, 20.0)
"""Borders of the slices by duration."""
WINDOWS_APART = 0.02
"""A difference in WER between full and short windows that is worth a warning, if the bootstrap sees it too."""
CAP_SHARE = 0.01
"""A share of hypotheses cut off at the cap that is worth a warning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreProgress:
    """How far scoring has come."""

    window: Window
    """Kind of window at work."""
    num_done: int
    """Utterances decoded in it."""
    num_utterances: int
    """Utterances in all."""


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


def _ignore(_event: ScoreProgress) -> None:
    """Do nothing: the default receiver of progress."""


def score_model(
    model: str, dataset: Path, config: ScoreConfig, progress: Callable[[ScoreProgress], None] = _ignore
) -> ScoreReport:
    """Score a model on a dataset and write score.json and score.html.

    Args:
        model: Folder or name of the model.
        dataset: A finished dataset.
        config: The knobs.
        progress: Receives an event a batch.

    Raises:
        ModelError: The model cannot be used.
        DatasetError: The dataset cannot be read.
        TrainingError: The dataset is empty.
        ConfigError: The precision, the language or the cap cannot be.
        EnvironmentFault: The report cannot be written.
    """
    set_threads(config.threads)
    data = open_dataset(dataset)
    if data.num_utterances == 0:
        raise TrainingError(f"{dataset}: the dataset is empty, there is nothing to score")
    loaded = load_whisper(model)
    folder = _make_folder(Path(config.out) if config.out else _beside_model(model, dataset))
    windows: tuple[Window, ...] = ("full", "short") if config.window == "both" else (config.window,)
    evaluations = [_evaluate(loaded, data, config, window, progress) for window in windows]
    speakers = _speakers(data)
    reports = tuple(_report_window(evaluation, config.text_form, speakers) for evaluation in evaluations)
    report = ScoreReport(
        model=model,
        dataset=str(dataset),
        form=config.text_form,
        num_utterances=len(evaluations[0].utterances),
        audio_seconds=sum(row.seconds for row in evaluations[0].utterances),
        windows=reports,
        warnings=tuple(find_warnings(reports, config)),
        json_path=folder / "score.json",
        html_path=folder / "score.html",
    )
    write_report(report)
    return report


def _beside_model(model: str, dataset: Path) -> Path:
    """Return the folder of the report: in the model's, or in the current one if the model came from a hub."""
    if Path(model).is_dir():
        return Path(model) / f"score-{dataset.resolve().name}"
    return Path(f"score-{model.replace('/', '-')}-{dataset.resolve().name}")


def _make_folder(folder: Path) -> Path:
    """Make the folder of the report before the work begins, so that a full disk is known early."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise as_environment_fault(error, folder) from error
    return folder


def _evaluate(
    loaded: LoadedWhisper,
    data: Dataset,
    config: ScoreConfig,
    window: Window,
    progress: Callable[[ScoreProgress], None],
) -> Evaluation:
    device = choose_device()
    set_up_gpu(device)
    loaded.model.to(device).eval()
    labeler = Labeler(loaded.tokenizer, config.language, config.task, is_multilingual=loaded.is_multilingual)
    evaluator = BatchEvaluator(
        loaded,
        labeler,
        window=window,
        max_new_tokens=config.max_new_tokens,
        dtype=choose_precision(config.precision, device),
        device=device,
    )
    total = min(config.limit or data.num_utterances, data.num_utterances)
    parts: list[EvaluationPart] = []
    for batch in open_evaluation(data, batch_size=config.eval_batch, limit=config.limit):
        parts.append(evaluator.evaluate(batch))
        done = sum(len(part.utterances) for part in parts)
        progress(ScoreProgress(window=window, num_done=done, num_utterances=total))
    whole = EvaluationPart(
        utterances=tuple(row for part in parts for row in part.utterances),
        loss_sum=sum(part.loss_sum for part in parts),
        num_tokens=sum(part.num_tokens for part in parts),
        seconds=sum(part.seconds for part in parts),
    )
    return finish_evaluation([whole], window=window, form=config.text_form)


def _report_window(evaluation: Evaluation, form: TextForm, speakers: Mapping[str, str | None]) -> WindowReport:
    scores = {name: evaluation.score_as(name) for name in TEXT_FORMS}
    return WindowReport(
        window=evaluation.window,
        loss=evaluation.loss,
        scores=scores,
        cap_hits=evaluation.cap_hits,
        slices=tuple(slice_scores(scores[form], evaluation, speakers)),
        seconds=evaluation.seconds,
    )


def _speakers(data: Dataset) -> dict[str, str | None]:
    columns = data.columns("key", "speaker")
    return dict(zip(columns["key"], columns["speaker"], strict=True))


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


def write_report(report: ScoreReport) -> None:
    """Write score.json and score.html.

    Raises:
        EnvironmentFault: The disk is full or does not let us write.
    """
    write_json(report.json_path, report_as_json(report))
    with atomic_file(report.html_path) as file:
        file.write(build_page(report).encode())


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
