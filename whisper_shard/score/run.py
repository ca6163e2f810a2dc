"""Score a model on a dataset: WER and CER in both windows and all forms of the text, in score.json and score.html."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from whisper_shard.config.score import ScoreConfig
from whisper_shard.dataset.index import Dataset, open_dataset
from whisper_shard.dataset.search import check_texts
from whisper_shard.errors import ConfigError, TrainingError
from whisper_shard.score.clips import make_clips
from whisper_shard.score.evaluation import Evaluation
from whisper_shard.score.events import ScoreProgress, Window
from whisper_shard.score.normalize import TEXT_FORMS
from whisper_shard.score.outputs import count_outputs
from whisper_shard.score.page import PageDetails, build_page, list_worst
from whisper_shard.score.report import ScoreReport, WindowReport, find_warnings, report_as_json
from whisper_shard.score.slices import NO_VALUE, SliceNames, find_unsliced, read_slices, slice_scores
from whisper_shard.score.table import TABLE_NAME, write_table
from whisper_shard.storage.atomic import as_environment_fault, atomic_file, write_json
from whisper_shard.storage.location import Location, local_path, parse_location
from whisper_shard.version import __version__


def _ignore(_event: ScoreProgress) -> None:
    """Do nothing: the default receiver of progress."""


def score_model(
    model: str, dataset: Path | str, config: ScoreConfig, progress: Callable[[ScoreProgress], None] = _ignore
) -> ScoreReport:
    """Score a model on a dataset and write score.json, score.parquet and score.html.

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
    _check_order(model, dataset)
    data = _open(dataset)
    columns = read_slices(data, config.slice_columns)
    from whisper_shard.score.decode import Scorer  # torch, which scores of given hypotheses do without

    scorer = Scorer(model, config)
    folder = _make_folder(local_path(config.out, what="--out") if config.out else _default_folder(model, data.location))
    windows: tuple[Window, ...] = ("full", "short") if config.window == "both" else (config.window,)
    evaluations = scorer.decode(data, windows, progress)
    return _finish(_Scored(model, data, evaluations, scorer.settings), config, columns, folder)


@dataclass(frozen=True, slots=True)
class _Scored:
    """Hypotheses of a dataset, and where they come from."""

    name: str
    data: Dataset
    evaluations: Sequence[Evaluation]
    settings: Mapping[str, str]


def _finish(scored: _Scored, config: ScoreConfig, columns: Sequence[SliceNames], folder: Path) -> ScoreReport:
    """Count, compare and write."""
    reports = tuple(_report_window(evaluation, columns) for evaluation in scored.evaluations)
    report = ScoreReport(
        model=scored.name,
        dataset=str(scored.data.location),
        form=config.text_form,
        num_utterances=len(reports[0].utterances),
        audio_seconds=reports[0].audio_seconds,
        windows=reports,
        settings={**_describe_data(scored.data, config), **scored.settings},
        warnings=(*find_warnings(reports, config), *find_unsliced(reports[0].slices, config.slice_columns)),
        json_path=folder / "score.json",
        html_path=folder / "score.html",
        table_path=folder / TABLE_NAME,
    )
    write_report(report, _gather_details(report, scored.data, columns, with_players=config.players))
    return report


def _gather_details(
    report: ScoreReport, data: Dataset, columns: Sequence[SliceNames], *, with_players: bool
) -> PageDetails:
    """Return the audio of the utterances on the page, and the names of their slices."""
    keys = [row.key for row, _ in list_worst(report.windows[0], report)]
    named = [column.by_key.reindex(keys) for column in columns if not column.is_ordered]
    labels = {key: [str(name) for name in names if name != NO_VALUE] for key, *names in zip(keys, *named, strict=True)}
    return PageDetails(clips=make_clips(data, keys) if with_players else {}, labels=labels)


def _open(dataset: Location | Path | str) -> Dataset:
    data = open_dataset(dataset)
    if data.num_utterances == 0:
        raise TrainingError(f"{data.location}: the dataset is empty, there is nothing to score")
    check_texts(data)
    return data


def _describe_data(data: Dataset, config: ScoreConfig) -> dict[str, str]:
    """Return what a score depends on besides the hypotheses, by name."""
    return {
        "text form": config.text_form,
        "utterances": f"{config.limit:,} by a fixed shuffle" if config.limit else "all",
        "index.parquet": f"sha256 {data.index_sha256[:16]}",
        "whisper-shard": __version__,
    }


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


def _report_window(evaluation: Evaluation, columns: Sequence[SliceNames]) -> WindowReport:
    return WindowReport(
        window=evaluation.window,
        loss=evaluation.loss,
        scores={form: evaluation.score_as(form) for form in TEXT_FORMS},
        outputs=count_outputs(evaluation.utterances, evaluation.score.utterances),
        slices=tuple(slice_scores(evaluation, columns)),
        seconds=evaluation.seconds,
        utterances=evaluation.utterances,
    )


def write_report(report: ScoreReport, details: PageDetails) -> None:
    """Write score.json, score.parquet and score.html.

    Raises:
        EnvironmentFault: The disk is full or not writable.
    """
    write_json(report.json_path, report_as_json(report))
    write_table(report, report.table_path)
    with atomic_file(report.html_path) as file:
        file.write(build_page(report, details).encode())
