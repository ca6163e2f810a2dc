"""Experiment trackers: the numbers of a run go to Weights & Biases, MLflow or Trackio too, fed by its events.

Where they go is set as each tracker's own documentation says, by its environment: WANDB_MODE=offline,
MLFLOW_TRACKING_URI, TRACKIO_DIR. A tracker that fails during the run never stops it.
"""

import json
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whisper_shard.config.settings import flatten_settings
from whisper_shard.errors import ConfigError
from whisper_shard.storage.atomic import write_json
from whisper_shard.train.events import Delivered, Evaluated, Event, GapMeasured, Progress, Stepped, Warned
from whisper_shard.train.run.context import RunContext

PROJECT = "whisper-shard"
"""Project (of MLflow: experiment), unless the environment of the tracker names one."""
ID_NAME = "tracker.json"
"""File in the run folder with the identity of the run, so that a resumed run goes on in the same place."""
_STEP_FIELDS = (
    "loss", "lr", "grad_norm", "epoch", "utterances_per_second", "audio_seconds_per_second", "data_wait_share",
)  # fmt: skip
_EVALUATION_FIELDS = ("wer", "cer", "loss", "cap_hits")
_GAP_FIELDS = ("loss_full", "loss_borrowed", "gap", "full_share")
_DELIVERY_FIELDS = ("utterances", "audio_seconds", "skipped")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tracker:
    """An open run of a tracker."""

    log: Callable[[dict[str, float], int], None]
    """Takes metrics by name, and the step."""
    close: Callable[[bool], None]
    """Ends the run; takes whether it has succeeded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackedRun:
    """What a tracker is told of a run when it is opened."""

    id: str
    """The same whenever the run is resumed."""
    name: str
    """The run folder, as the user calls it."""
    folder: str
    """Where files of the tracker may be kept."""
    settings: Mapping[str, Any]
    """All settings."""


def open_wandb(run: TrackedRun) -> Tracker:
    """Open a run of Weights & Biases."""
    import wandb

    opened = wandb.init(
        project=os.environ.get("WANDB_PROJECT", PROJECT),
        id=run.id,
        name=run.name,
        config=dict(run.settings),
        dir=run.folder,
        resume="allow",
    )
    # Steps that are made again after a crash would be dropped if they were wandb's own steps, which only rise.
    opened.define_metric("*", step_metric="step")
    return Tracker(
        log=lambda metrics, step: opened.log({**metrics, "step": step}),
        close=lambda succeeded: opened.finish(exit_code=0 if succeeded else 1),
    )


def open_mlflow(run: TrackedRun) -> Tracker:
    """Open a run of MLflow."""
    import mlflow

    if "MLFLOW_EXPERIMENT_NAME" not in os.environ and "MLFLOW_EXPERIMENT_ID" not in os.environ:
        mlflow.set_experiment(PROJECT)
    found = mlflow.search_runs(filter_string=f"tags.whisper_shard_run = '{run.id}'", output_format="list")
    if found:
        mlflow.start_run(run_id=found[0].info.run_id)
    else:
        mlflow.start_run(run_name=run.name, tags={"whisper_shard_run": run.id})
        mlflow.log_params(dict(run.settings))
    return Tracker(
        log=lambda metrics, step: mlflow.log_metrics(metrics, step=step),
        close=lambda succeeded: mlflow.end_run("FINISHED" if succeeded else "KILLED"),
    )


def open_trackio(run: TrackedRun) -> Tracker:
    """Open a run of Trackio."""
    import trackio

    # Trackio knows runs by their names.
    name, project = f"{run.name} {run.id[:8]}", os.environ.get("TRACKIO_PROJECT", PROJECT)
    trackio.init(project=project, name=name, config=dict(run.settings), resume="allow", embed=False)
    return Tracker(log=lambda metrics, step: trackio.log(metrics, step=step), close=lambda _succeeded: trackio.finish())


OPENERS: dict[str, Callable[[TrackedRun], Tracker]] = {
    "wandb": open_wandb,
    "mlflow": open_mlflow,
    "trackio": open_trackio,
}
"""By the names that ``--tracker`` takes."""


@contextmanager
def track(context: RunContext) -> Iterator[Progress]:
    """Open the tracker of a run, if it has one, and yield the progress callback to use; rank 0 tracks.

    Raises:
        ConfigError: The tracker is not installed, or cannot be opened.
    """
    name, progress = context.config.saving.tracker, context.progress
    if name == "none" or not context.machine.ranks.is_first:
        yield progress
        return
    tracked = _Tracked(tracker=_open(name, context), name=name, progress=progress)
    succeeded = False
    try:
        yield tracked.report
        succeeded = True
    finally:
        tracked.close(succeeded=succeeded)


def list_metrics(event: Event) -> Iterator[tuple[str, float]]:
    """Yield the metrics in an event by their names, such as ``train/loss`` and ``eval/wer``."""
    group, fields = _group_of(event)
    for field in fields:
        yield f"{group}/{field}", float(getattr(event, field))


def _group_of(event: Event) -> tuple[str, tuple[str, ...]]:
    match event:
        case Stepped():
            return "train", _STEP_FIELDS
        case Evaluated() if event.dataset:
            return f"{'final' if event.is_final else 'eval'}-{event.dataset}", _EVALUATION_FIELDS
        case Evaluated(is_final=True):
            return f"final-{event.window}", _EVALUATION_FIELDS
        case Evaluated():
            return "eval" if event.window == "full" else f"estimate-{event.window}", _EVALUATION_FIELDS
        case GapMeasured():
            return "watch", _GAP_FIELDS
        case Delivered():
            return "epoch", _DELIVERY_FIELDS
    return "", ()


def _open(name: str, context: RunContext) -> Tracker:
    path = context.folder.path / ID_NAME
    identity = _read_identity(path) if path.is_file() else uuid.uuid4().hex[:16]
    run = TrackedRun(
        id=identity,
        name=context.folder.shown,
        folder=str(context.folder.path),
        settings=flatten_settings(context.config),
    )
    try:
        tracker = OPENERS[name](run)
    except ImportError as error:
        raise ConfigError(
            f"--tracker {name}: it is not installed: pip install 'whisper-shard[{name}]' ({error})"
        ) from error
    except Exception as error:
        raise ConfigError(f"--tracker {name}: it cannot be opened: {_first_line(error)}") from error
    write_json(path, {"tracker": name, "id": identity})
    return tracker


def _read_identity(path: Path) -> str:
    """Return the identity of the run in its tracker.

    Raises:
        ConfigError: The file is damaged.
    """
    try:
        return str(json.loads(path.read_bytes())["id"])
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: is damaged; remove it, and the tracker begins a new run") from error


@dataclass(slots=True, kw_only=True)
class _Tracked:
    """Hands events on, and their metrics to a tracker, as long as that works."""

    tracker: Tracker
    name: str
    progress: Progress
    step: int = 0
    is_working: bool = True

    def report(self, event: Event) -> None:
        self.progress(event)
        self.step = int(getattr(event, "step", self.step))
        metrics = dict(list_metrics(event))
        if not metrics or not self.is_working:
            return
        try:
            self.tracker.log(metrics, self.step)
        except Exception as error:
            self.is_working = False
            message = f"{self.name} failed, and gets no more numbers of this run: {_first_line(error)}"
            self.progress(Warned(message=message))

    def close(self, *, succeeded: bool) -> None:
        try:
            self.tracker.close(succeeded)
        except Exception as error:
            self.progress(Warned(message=f"{self.name} failed at the end of the run: {_first_line(error)}"))


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), repr(error))
