"""The folder of a run: which run it belongs to, its files, and the report at the end.

RUN/train.json        settings, fingerprints of the data, library versions
RUN/metrics.jsonl     metrics and events; RUN/run.html shows them; RUN/tensorboard the same numbers for TensorBoard
RUN/checkpoints/      the last two and the best; RUN/snapshots/ weights for averaging
RUN/model/            the result, a Hugging Face folder
RUN/report.json       the result in numbers; written when the run is finished
RUN/.lock             held by the process that trains into the folder
"""

import json
import platform
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from whisper_shard.config.settings import flatten_settings
from whisper_shard.config.train import TrainConfig
from whisper_shard.dataset.index import Dataset
from whisper_shard.errors import StateError
from whisper_shard.storage.atomic import write_json
from whisper_shard.storage.lock import hold_lock
from whisper_shard.train.ranks import Ranks
from whisper_shard.train.run.checkpoint import list_checkpoints

FREE_SETTINGS = frozenset(
    {
        "also_eval", "bad_record", "cache", "cache_gb", "compile", "dry_run", "eval", "eval_batch", "extend",
        "gradient_checkpointing", "load_timeout_seconds", "log_every", "max_bad", "max_nonfinite", "micro_batch",
        "prefetch", "progress_every", "read_ahead_mb", "resume", "save_every", "save_minutes", "shard", "tensorboard",
        "threads", "tracker", "workers",
    }
)  # fmt: skip
"""Settings that may change when a run is resumed: they affect speed and safety, not the result."""
LENGTH_SETTINGS = frozenset({"epochs", "max_steps"})
"""Settings that --extend may change: the run gets longer, and its learning rate falls more slowly from there on."""
BEFORE_THEY_EXISTED: Mapping[str, Any] = {
    "also_eval": [], "optimizer": "adamw", "pack_share": 1.0, "prompts": 1.0, "raise_full_share": False,
    "shard": "none", "watch_every": 0,
}  # fmt: skip
"""What runs did that were begun before there were these settings, such as to use every prompt of the data."""
_PER_CALL = frozenset({"dry_run", "extend", "resume"})  # they belong to a command, not to the run
LIBRARIES = ("torch", "transformers", "torchaudio", "safetensors", "numpy", "audiomentations", "webdataset", "jiwer")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFolder:
    """Paths in the folder of a run."""

    path: Path
    """The folder itself."""
    url: str = ""
    """The URL of a run in object storage, whose work folder this is; empty: it is local."""

    @property
    def shown(self) -> str:
        """What the user calls the folder."""
        return self.url or str(self.path)

    @property
    def checkpoints(self) -> Path:
        """The state to resume from."""
        return self.path / "checkpoints"

    @property
    def snapshots(self) -> Path:
        """Weights of the last evaluations, for averaging."""
        return self.path / "snapshots"

    @property
    def model(self) -> Path:
        """The trained model."""
        return self.path / "model"

    @property
    def settings(self) -> Path:
        """Settings and data of the run."""
        return self.path / "train.json"

    @property
    def report(self) -> Path:
        """The result in numbers."""
        return self.path / "report.json"

    @property
    def lock(self) -> Path:
        """Locked while a process trains into the folder."""
        return self.path / ".lock"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainReport:
    """The result of a run."""

    model: str
    """Folder of the result: model, tokenizer and feature extractor."""
    steps: int
    """Optimizer steps made."""
    best_step: int
    """Step whose weights were restored; 0: training never beat the model it began with."""
    stopped: str
    """steps: all steps were made; early: WER had not improved for ``patience`` evaluations."""
    wer_before: float
    """WER before training, in 30 s windows."""
    wer: float
    """WER of the result in 30 s windows, as every standard tool uses it."""
    wer_interval: tuple[float, float]
    """Its 95 % bootstrap interval."""
    wer_short: float
    """WER of the result in windows as short as the audio."""
    cer: float
    """Character error rate in 30 s windows."""
    loss: float
    """Mean loss of a token in 30 s windows."""
    cap_hits: int
    """Hypotheses cut off at the longest length."""
    chosen: str
    """Which weights were kept: best, average of N, ema D, or S base."""
    candidates: Mapping[str, float]
    """WER, in 30 s windows, of all weights that were tried at the end."""
    seconds: float
    """Wall time of this call; less than that of the whole run if it was resumed."""
    also: Mapping[str, tuple[float | None, float]] = field(default_factory=dict)
    """WER before training and of the result on further evaluation data, by name; None: not measured before."""


@contextmanager
def sole_trainer(folder: RunFolder, ranks: Ranks) -> Iterator[None]:
    """Create the run folder, lock it and remove leftovers, on rank 0; the lock ends with the process, in any case.

    Raises:
        StateError: Another process trains into it.
        ConfigError: The run folder is a file, or lies below one.
        EnvironmentFault: The folder cannot be written.
    """
    if not ranks.is_first:
        yield
        return
    with hold_lock(folder.lock, folder=folder.path, name="run", doing="training"):
        _remove_leftovers(folder)
        yield


def _remove_leftovers(folder: RunFolder) -> None:
    """Remove temporary files of a killed process, which can be as big as a checkpoint."""
    for place in (folder.path, folder.checkpoints, folder.snapshots):
        for leftover in place.glob("*.tmp.*"):
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)


def claim_run(
    folder: RunFolder, config: TrainConfig, training: Sequence[Dataset], evaluation: Dataset, *, write: bool
) -> list[str]:
    """Record in the run folder which run it belongs to, or check that it is this one.

    A run that was begun before a setting existed counts as one with the value of BEFORE_THEY_EXISTED.

    With --extend, the number of steps may have changed: then the run is no longer finished, and goes on to the new one.

    Args:
        folder: The folder, locked.
        config: The settings.
        training: All training data.
        evaluation: The evaluation data.
        write: Whether to write train.json; one rank does.

    Returns:
        The settings that differ from those the run began with, which may, each in words.

    Raises:
        StateError: The folder holds a run, finished or not, with other settings or data, or --no-resume was given.
    """
    ours = describe_run(config, training, evaluation)
    if not (list_checkpoints(folder.checkpoints) or folder.report.is_file()):
        if write:
            write_json(folder.settings, ours)
        return []
    if not config.saving.resume:
        raise StateError(f"{folder.shown}: already holds a run; choose a new folder, or omit --no-resume")
    changes = check_same_run(folder, ours, may_extend=config.saving.extend)
    if write and changes.keys() & LENGTH_SETTINGS:
        # In this order: killed in between, it is an unfinished run of the old length, which can be extended again.
        folder.report.unlink(missing_ok=True)
        write_json(folder.settings, ours)
    return [f"{name} = {now!r}, was {before!r}" for name, (before, now) in changes.items()]


def describe_run(config: TrainConfig, training: Sequence[Dataset], evaluation: Dataset) -> dict[str, Any]:
    """Return settings and data, which decide the result of a run, and library versions, as plain JSON values."""
    description = {
        "settings": flatten_settings(config),
        "data": {
            "train": "+".join(data.index_sha256 for data in training),
            "eval": evaluation.index_sha256,
            "train_folder": str(training[0].location),
            "eval_folder": str(evaluation.location),
        },
        "versions": library_versions(),
    }
    plain: dict[str, Any] = json.loads(json.dumps(description, default=dict))
    return plain


def check_same_run(
    folder: RunFolder, ours: Mapping[str, Any], *, may_extend: bool = False
) -> dict[str, tuple[Any, Any]]:
    """Check that the run in the folder has the same settings and data; its model is checked when weights are restored.

    Args:
        folder: Of the run.
        ours: What `describe_run` gives now.
        may_extend: Whether LENGTH_SETTINGS may differ, too.

    Returns:
        Value before and now of each setting that differs and may.

    Raises:
        StateError: Names all other differences with both values.
    """
    try:
        theirs = json.loads(folder.settings.read_bytes())
        before = {**BEFORE_THEY_EXISTED, **theirs["settings"], **_data_fields(theirs)}
    except (OSError, ValueError, KeyError) as error:
        raise StateError(f"{folder.settings}: missing or damaged ({error!r}); start again in another folder") from error
    now = {**ours["settings"], **_data_fields(ours)}
    changes = {name: (before.get(name), value) for name, value in now.items() if before.get(name) != value}
    extended = {name for name in LENGTH_SETTINGS & changes.keys() if may_extend and _is_longer(changes[name])}
    # Windows that are compared change the result only through the share that is raised.
    watching = set[str]() if now["raise_full_share"] else {"watch_every"}
    allowed = FREE_SETTINGS | extended | watching
    if refused := {name: values for name, values in changes.items() if name not in allowed}:
        differences = "; ".join(f"{name} = {old!r}, now it is {new!r}" for name, (old, new) in refused.items())
        longer = ", use --extend to make more steps" if refused.keys() <= LENGTH_SETTINGS else ""
        raise StateError(
            f"{folder.shown}: this run began with {differences}; resume with the same, or choose another run "
            f"folder{longer}"
        )
    return {name: values for name, values in changes.items() if name not in _PER_CALL}


def _is_longer(change: tuple[Any, Any]) -> bool:
    """Return whether a number of epochs or steps was raised; 0 leaves it to the other of the two."""
    before, now = change
    return bool(now == 0 or now > before)


def read_report(folder: RunFolder) -> TrainReport | None:
    """Return the report of a finished run, None if it is not finished."""
    try:
        value = json.loads(folder.report.read_bytes())
        also = {name: (before, after) for name, (before, after) in value.get("also", {}).items()}
        return TrainReport(**{**value, "wer_interval": tuple(value["wer_interval"]), "also": also})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_report(folder: RunFolder, report: TrainReport) -> None:
    """Write the report, which marks the run as finished."""
    write_json(folder.report, asdict(report))


@cache
def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that numbers can depend on."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    return found


def _data_fields(description: Mapping[str, Any]) -> dict[str, str]:
    return {
        "training data": description["data"]["train"],
        "evaluation data": description["data"]["eval"],
    }
