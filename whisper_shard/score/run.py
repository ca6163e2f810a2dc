"""Score a model on a dataset: WER and CER in both windows and all forms of the text, in score.json and score.html."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from whisper_shard.config.score import ScoreConfig
from whisper_shard.dataset.index import Dataset, open_dataset
from whisper_shard.dataset.search import check_texts
from whisper_shard.errors import ConfigError, TrainingError
from whisper_shard.model.device import choose_device, choose_precision, set_threads, set_up_gpu
from whisper_shard.model.labels import Labeler
from whisper_shard.model.whisper import LoadedWhisper, load_whisper
from whisper_shard.score.evaluate import Evaluation, EvaluationSettings, evaluate_model
from whisper_shard.score.events import ScoreProgress, Window
from whisper_shard.score.normalize import TEXT_FORMS
from whisper_shard.score.page import build_page
from whisper_shard.score.report import ScoreReport, WindowReport, find_warnings, report_as_json, slice_scores
from whisper_shard.storage.atomic import as_environment_fault, atomic_file, write_json
from whisper_shard.storage.location import Location, local_path, parse_location
from whisper_shard.stream.batch import Batch
from whisper_shard.stream.loader import open_evaluation


def _ignore(_event: ScoreProgress) -> None:
    """Do nothing: the default receiver of progress."""


def score_model(
    model: str, dataset: Path | str, config: ScoreConfig, progress: Callable[[ScoreProgress], None] = _ignore
) -> ScoreReport:
    """Score a model on a dataset and write score.json and score.html.

    Args:
        model: Folder or hub name of the model.
        dataset: A finished dataset: a local path or a URL.
        config: Settings of the command.
        progress: Called after each batch.

    Raises:
        ModelError: The model cannot be used.
        DatasetError: The dataset cannot be read, or has no texts to compare with.
        TrainingError: The dataset is empty, or a batch does not fit into memory.
        ConfigError: Model and dataset are swapped, or precision, language or cap are not possible.
        EnvironmentFault: The report cannot be written.
    """
    set_threads(config.threads)
    _check_order(model, dataset)
    data = open_dataset(dataset)
    if data.num_utterances == 0:
        raise TrainingError(f"{data.location}: the dataset is empty, there is nothing to score")
    check_texts(data)
    loaded = load_whisper(model)
    folder = _make_folder(local_path(config.out, what="--out") if config.out else _default_folder(model, data.location))
    device = choose_device()
    set_up_gpu(device)
    loaded.model.to(device)
    windows: tuple[Window, ...] = ("full", "short") if config.window == "both" else (config.window,)
    evaluations = [_evaluate(loaded, data, config, window, progress) for window in windows]
    speakers = _speakers(data)
    reports = tuple(_report_window(evaluation, speakers) for evaluation in evaluations)
    report = ScoreReport(
        model=model,
        dataset=str(data.location),
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


def _check_order(model: str, dataset: Path | str) -> None:
    """Check that model and dataset are not swapped.

    Raises:
        ConfigError: They are.
    """
    location, folder = parse_location(dataset), Path(model)
    is_model = location.is_local and (location.path / "config.json").is_file()
    no_model = "://" in model or (folder.is_dir() and not (folder / "config.json").is_file())
    if is_model and no_model:
        raise ConfigError(f"the model comes first: whisper-shard score {dataset} {model}")


def _default_folder(model: str, dataset: Location) -> Path:
    """Return a folder in the model's own, or in the current one if the model came from a hub."""
    name = dataset.path.resolve().name if dataset.is_local else dataset.name or dataset.bucket
    if Path(model).is_dir():
        return Path(model) / f"score-{name}"
    return Path(f"score-{model.replace('/', '-')}-{name}")


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
    labeler = Labeler(loaded.tokenizer, config.language, config.task, is_multilingual=loaded.is_multilingual)
    settings = EvaluationSettings(
        window=window,
        max_new_tokens=config.max_new_tokens,
        dtype=choose_precision(config.precision, loaded.model.device),
        form=config.text_form,
    )
    total = min(config.limit or data.num_utterances, data.num_utterances)
    batches = open_evaluation(data, batch_size=config.eval_batch, limit=config.limit)
    return evaluate_model(loaded, _report_progress(batches, window, total, progress), labeler, settings)


def _report_progress(
    batches: Iterable[Batch], window: Window, total: int, progress: Callable[[ScoreProgress], None]
) -> Iterator[Batch]:
    """Yield batches, and report each when the next one is requested: then it has been evaluated."""
    done = 0
    for batch in batches:
        yield batch
        done += int((batch.weights > 0).sum())
        progress(ScoreProgress(window=window, num_done=done, num_utterances=total))


def _report_window(evaluation: Evaluation, speakers: Mapping[str, str | None]) -> WindowReport:
    return WindowReport(
        window=evaluation.window,
        loss=evaluation.loss,
        scores={form: evaluation.score_as(form) for form in TEXT_FORMS},
        cap_hits=evaluation.cap_hits,
        slices=tuple(slice_scores(evaluation, speakers)),
        seconds=evaluation.seconds,
    )


def _speakers(data: Dataset) -> dict[str, str | None]:
    columns = data.columns("key", "speaker")
    return dict(zip(columns["key"], columns["speaker"], strict=True))


def write_report(report: ScoreReport) -> None:
    """Write score.json and score.html.

    Raises:
        EnvironmentFault: The disk is full or not writable.
    """
    write_json(report.json_path, report_as_json(report))
    with atomic_file(report.html_path) as file:
        file.write(build_page(report).encode())
