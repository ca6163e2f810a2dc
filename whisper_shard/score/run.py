"""Score a model, or given hypotheses, on a dataset, and write the report: score.json, score.parquet, score.html."""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from whisper_shard.config.score import ScoreConfig
from whisper_shard.dataset.index import Dataset, open_dataset
from whisper_shard.dataset.search import check_texts
from whisper_shard.errors import ConfigError, DatasetError, EnvironmentFault, TrainingError
from whisper_shard.score.clips import make_clips
from whisper_shard.score.evaluation import Evaluation, summarize_utterances
from whisper_shard.score.events import ScoreProgress, Window
from whisper_shard.score.hypotheses import check_same_data, match_hypotheses, read_hypotheses
from whisper_shard.score.normalize import TEXT_FORMS
from whisper_shard.score.other import Other, compare_with, open_other
from whisper_shard.score.outputs import count_outputs
from whisper_shard.score.page import PageDetails, build_page, list_shown
from whisper_shard.score.report import ScoreReport, WindowReport, find_warnings, report_as_json
from whisper_shard.score.saved import REPORT_NAME, is_score_folder, read_score
from whisper_shard.score.slices import NO_VALUE, SliceNames, find_unsliced, read_slices, slice_scores
from whisper_shard.score.table import TABLE_NAME, write_table
from whisper_shard.score.times import measure_times
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
    check_order(model, dataset)
    _check_alone(dataset)
    plan = _plan(dataset, config)
    from whisper_shard.score.decode import Scorer  # torch, which scores of given hypotheses do without

    scorer = Scorer(model, config)
    folder = make_folder(local_out(config) or default_folder(model, plan.data.location))
    windows: tuple[Window, ...] = ("full", "short") if config.window == "both" else (config.window,)
    evaluations = scorer.decode(plan.data, windows, progress)
    notes = () if scorer.num_prompted or not config.prompts else ("--prompts: no utterance has a prompt in the data",)
    scored = _Scored(name=model, evaluations=evaluations, settings=scorer.settings, notes=notes)
    return _finish(plan, scored, folder, progress)


def score_hypotheses(
    hypotheses: Path | str,
    dataset: Path | str,
    config: ScoreConfig,
    progress: Callable[[ScoreProgress], None] = _ignore,
) -> ScoreReport:
    """Score hypotheses from a file, or of an earlier score, and write score.json, score.parquet and score.html.

    Args:
        hypotheses: CSV, TSV, JSON lines or Parquet file, see `read_hypotheses`; or the folder of a score.
        dataset: A finished dataset: a local path or a URL.
        config: Settings of the command.
        progress: Called after each batch of a model that it is compared with.

    Raises:
        ManifestError: The file cannot be used.
        DatasetError: The dataset cannot be read, or the folder holds a score of other data.
        TrainingError: The dataset is empty.
        ConfigError: There is no such file or folder, or a setting is not possible.
        EnvironmentFault: The report cannot be written.
    """
    path = local_path(hypotheses, what="--hypotheses")
    plan = _plan(dataset, config)
    if is_score_folder(path):
        scored, folder = _rescore(path, plan), path
    elif path.is_file():
        given = read_hypotheses(path)
        rows, notes = match_hypotheses(given, plan.data, language=config.language or "en")
        evaluation = summarize_utterances(rows, window="given", form=config.text_form, loss=math.nan, seconds=math.nan)
        scored = _Scored(name=str(path), evaluations=[evaluation], settings={"texts": given.describe()}, notes=notes)
        folder = path.parent / f"score-{path.name}-{_name_of(plan.data.location)}"
    else:
        words = "is a folder without score.json" if path.is_dir() else "does not exist"
        raise ConfigError(f"--hypotheses {path}: {words}; give a file with hypotheses, or the folder of a score")
    return _finish(plan, scored, make_folder(local_out(config) or folder), progress)


def _rescore(path: Path, plan: "_Plan") -> "_Scored":
    """Read an earlier score, so that it can be cut and compared anew."""
    saved = read_score(path)
    evaluations = saved.evaluate(plan.config.text_form)
    check_same_data(str(path), evaluations[0].utterances, plan.data)
    num_there, num_all = len(evaluations[0].utterances), plan.data.num_utterances
    notes = (f"{path}: {num_there:,} of {num_all:,} utterances were scored there",) if num_there < num_all else ()
    return _Scored(name=saved.model, evaluations=evaluations, settings=saved.settings, notes=notes)


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is known before anything is decoded; all that can be wrong with it has been found."""

    config: ScoreConfig
    data: Dataset
    columns: Sequence[SliceNames]
    other: Other | None


def _plan(dataset: Location | Path | str, config: ScoreConfig) -> _Plan:
    data = open_dataset(dataset)
    if data.num_utterances == 0:
        raise TrainingError(f"{data.location}: the dataset is empty, there is nothing to score")
    check_texts(data)
    columns = read_slices(data, config.slice_columns)
    return _Plan(config, data, columns, open_other(config.against, data, config) if config.against else None)


def local_out(config: ScoreConfig) -> Path | None:
    """Return the folder that the settings name for the report; None: none."""
    return local_path(config.out, what="--out") if config.out else None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scored:
    """Hypotheses of a dataset, and where they come from."""

    name: str
    evaluations: Sequence[Evaluation]
    settings: Mapping[str, str]
    notes: tuple[str, ...] = ()


def _finish(plan: _Plan, scored: _Scored, folder: Path, progress: Callable[[ScoreProgress], None]) -> ScoreReport:
    """Count, compare and write."""
    config, data, other = plan.config, plan.data, plan.other
    reports = tuple(_report_window(evaluation, plan.columns) for evaluation in scored.evaluations)
    comparison = compare_with(other, scored.evaluations[0], data, config, progress) if other else None
    report = ScoreReport(
        model=scored.name,
        dataset=str(data.location),
        form=config.text_form,
        num_utterances=len(reports[0].utterances),
        audio_seconds=reports[0].audio_seconds,
        windows=reports,
        comparison=comparison,
        settings={**scored.settings, **_describe_data(data, config)},
        warnings=(
            *scored.notes,
            *(other.notes if other else ()),
            *find_warnings(reports, config),
            *find_unsliced(reports[0].slices, config.slice_columns),
        ),
        json_path=folder / REPORT_NAME,
        html_path=folder / "score.html",
        table_path=folder / TABLE_NAME,
    )
    # The numbers first: they do not need the audio once more.
    write_json(report.json_path, report_as_json(report))
    write_table(report, report.table_path)
    return _write_page(report, plan)


def _write_page(report: ScoreReport, plan: _Plan) -> ScoreReport:
    """Write score.html; where the audio cannot be read (again), without players, and with a warning."""
    keys = list_shown(report)
    clips: Mapping[str, str] = {}
    try:
        clips = make_clips(plan.data, keys) if plan.config.players else {}
    except (DatasetError, EnvironmentFault) as error:
        report = replace(report, warnings=(*report.warnings, f"score.html has no players: {error}"))
    with atomic_file(report.html_path) as file:
        file.write(build_page(report, PageDetails(clips=clips, labels=_label(keys, plan))).encode())
    return report


def _label(keys: Sequence[str], plan: _Plan) -> dict[str, list[str]]:
    """Return the names of the slices of some utterances, ranges of numbers left out."""
    named = [column.by_key.reindex(list(keys)) for column in plan.columns if not column.is_ordered]
    return {key: [str(name) for name in names if name != NO_VALUE] for key, *names in zip(keys, *named, strict=True)}


def _describe_data(data: Dataset, config: ScoreConfig) -> dict[str, str]:
    """Return what a score depends on besides the hypotheses, by name."""
    return {
        "text form": config.text_form,
        **({"utterances": f"{config.limit:,} by a fixed shuffle"} if config.limit else {}),
        "index.parquet": f"sha256 {data.index_sha256[:16]}",
        "whisper-shard": __version__,
    }


def check_order(model: str, dataset: Path | str) -> None:
    """Check that model and dataset are not swapped.

    Raises:
        ConfigError: They are.
    """
    location, folder = parse_location(dataset), Path(model)
    is_model = location.is_local and (location.path / "config.json").is_file()
    no_model = "://" in model or (folder.is_dir() and not (folder / "config.json").is_file())
    if is_model and no_model:
        raise ConfigError(f"the model comes first: whisper-shard score {dataset} {model}")


def _check_alone(dataset: Path | str) -> None:
    """Check that no other process of a launcher does the same.

    Raises:
        ConfigError: One does.
    """
    if (world := os.environ.get("WORLD_SIZE", "1")) not in ("", "1"):
        raise ConfigError(
            f"WORLD_SIZE is {world} in the environment, but one process writes a report: share the work out by "
            f"--write-columns NAME, then score --hypotheses {dataset}/columns/NAME.parquet {dataset}"
        )


def default_folder(model: str, dataset: Location) -> Path:
    """Return a folder in the model's own, or in the current one if the model came from a hub."""
    name = _name_of(dataset)
    if Path(model).is_dir():
        return Path(model) / f"score-{name}"
    return Path(f"score-{model.replace('/', '-')}-{name}")


def _name_of(dataset: Location) -> str:
    return dataset.path.resolve().name if dataset.is_local else dataset.name or dataset.bucket


def make_folder(folder: Path) -> Path:
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
        times=measure_times(evaluation.utterances),
        slices=tuple(slice_scores(evaluation, columns)),
        seconds=evaluation.seconds,
        utterances=evaluation.utterances,
    )
