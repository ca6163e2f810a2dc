"""A model on a dataset, in full: WER and CER in both windows and all forms of the text, slices, and two files of it.

This is what the command ``score`` does. The numbers go to score.json, and to score.html for eyes.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from whisper_shard.config.score import ScoreConfig
from whisper_shard.dataset.index import Dataset, open_dataset
from whisper_shard.errors import TrainingError
from whisper_shard.model.device import choose_device, choose_precision, set_threads, set_up_gpu
from whisper_shard.model.labels import Labeler
from whisper_shard.model.whisper import LoadedWhisper, load_whisper
from whisper_shard.score.evaluate import BatchEvaluator, Evaluation, EvaluationPart, finish_evaluation
from whisper_shard.score.events import ScoreProgress, Window
from whisper_shard.score.normalize import TEXT_FORMS, TextForm
from whisper_shard.score.page import build_page
from whisper_shard.score.report import ScoreReport, WindowReport, find_warnings, report_as_json, slice_scores
from whisper_shard.storage.atomic import as_environment_fault, atomic_file, write_json
from whisper_shard.stream.loader import open_evaluation


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


def write_report(report: ScoreReport) -> None:
    """Write score.json and score.html.

    Raises:
        EnvironmentFault: The disk is full or does not let us write.
    """
    write_json(report.json_path, report_as_json(report))
    with atomic_file(report.html_path) as file:
        file.write(build_page(report).encode())
