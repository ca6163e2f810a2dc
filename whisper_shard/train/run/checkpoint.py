"""A checkpoint: everything a run resumes from, in a folder that is either complete or absent.

``step-00000123/`` holds tensors in safetensors files and everything else in ``state.json``, which is written last and
contains the sha256 of every other file and a checksum of itself. The folder is written under a temporary name, synced
and renamed. Nothing is pickled, so loading a checkpoint runs no code.

Source: safetensors, https://github.com/huggingface/safetensors (a JSON header and raw bytes).
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from whisper_shard.errors import EnvironmentFault, StateError
from whisper_shard.storage.atomic import as_environment_fault, sha256_of_file, sync_folder

STATE_NAME = "state.json"
FORMAT_VERSION = 4
_FOLDER = re.compile(r"step-(\d{8})")
Tensors = Mapping[str, torch.Tensor]
"""Tensors by name: parameters, moments ..."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The content of a checkpoint, verified."""

    step: int
    """Optimizer steps made when it was saved."""
    tensors: Mapping[str, Tensors]
    """Groups of tensors: ``model``, ``optimizer``, ``random``, and ``average`` if there is one."""
    state: Mapping[str, Any]
    """Everything that is not a tensor."""
    folder: Path
    """Its folder."""


def save_checkpoint(
    folder: Path, *, step: int, tensors: Mapping[str, Tensors], state: Mapping[str, Any], keep: Iterable[int] = ()
) -> Path:
    """Write a checkpoint, then remove all others except the one before it and those of ``keep``.

    Newer ones are removed as well: they can only be damaged ones that a resumed run has passed over.

    Args:
        folder: Folder of all checkpoints of a run; created if missing.
        step: Its number; an existing checkpoint of this step is replaced.
        tensors: Groups of tensors; each becomes one file.
        state: Everything else, as JSON values.
        keep: Steps whose checkpoints must stay.

    Raises:
        EnvironmentFault: The disk is full or cannot be written.
    """
    final = checkpoint_path(folder, step)
    temporary = folder / f"{final.name}.tmp.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(folder)
        temporary.mkdir()
        files = {f"{name}.safetensors": _write_tensors(temporary, name, group) for name, group in tensors.items()}
        _write_state(temporary / STATE_NAME, {"version": FORMAT_VERSION, "step": step, "files": files, **state})
        sync_folder(temporary)
        if final.exists():
            final.rename(final.with_name(f"{final.name}.tmp.old.{os.getpid()}"))
        temporary.rename(final)
        sync_folder(folder)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise as_environment_fault(error, final) from error
    except SafetensorError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise EnvironmentFault(
            f"{final}: cannot write: {error}; free some space and run the same command again"
        ) from error
    _prune(folder, step=step, keep=set(keep))
    return final


def load_checkpoint(path: Path) -> Checkpoint:
    """Read one checkpoint and verify every byte of it.

    Raises:
        StateError: A file is missing or was changed, or the checkpoint has another format version.
    """
    state = _read_state(path / STATE_NAME)
    if state.get("version") != FORMAT_VERSION:
        raise StateError(
            f"{path}: checkpoint version {state.get('version')}, this program reads {FORMAT_VERSION}; "
            "finish the run with the version that began it, or use another run folder"
        )
    tensors = {}
    for name, sha256 in state["files"].items():
        file = path / name
        found = sha256_of_file(file) if file.is_file() else "none: it is missing"
        if found != sha256:
            raise StateError(f"{file}: damaged: its sha256 is {found}, {STATE_NAME} says {sha256}")
        tensors[Path(name).stem] = load_file(file)
    return Checkpoint(step=state["step"], tensors=tensors, state=state, folder=path)


def list_checkpoints(folder: Path) -> list[int]:
    """Return the steps of the checkpoints in ``folder``, in ascending order."""
    if not folder.is_dir():
        return []
    return sorted(int(match[1]) for entry in folder.iterdir() if (match := _FOLDER.fullmatch(entry.name)))


def load_latest(folder: Path, *, warn: Callable[[str], None], not_after: int | None = None) -> Checkpoint | None:
    """Read the newest intact checkpoint; None if there is no checkpoint at all.

    Args:
        folder: Folder of all checkpoints of a run.
        warn: Called with a message for each damaged one that is passed over.
        not_after: Newest step that may be read; None: any.

    Raises:
        StateError: There are checkpoints, and all are damaged.
    """
    steps = [step for step in list_checkpoints(folder) if not_after is None or step <= not_after]
    for step in reversed(steps):
        try:
            return load_checkpoint(checkpoint_path(folder, step))
        except StateError as error:
            warn(f"{error}; going back to the checkpoint before it")
    if steps:
        raise StateError(
            f"{folder}: all of its {len(steps)} checkpoints are damaged; start again in another run folder"
        )
    return None


def checkpoint_path(folder: Path, step: int) -> Path:
    """Return the folder of the checkpoint of a step."""
    return folder / f"step-{step:08d}"


def read_tensors(path: Path, name: str) -> dict[str, torch.Tensor]:
    """Read one group of tensors of a checkpoint, verified.

    Raises:
        StateError: The file is missing or was changed.
    """
    state = _read_state(path / STATE_NAME)
    file = path / f"{name}.safetensors"
    if not file.is_file() or sha256_of_file(file) != state["files"].get(file.name):
        raise StateError(f"{file}: damaged or missing; remove {path} and run again from the checkpoint before it")
    return dict(load_file(file))


def _write_tensors(folder: Path, name: str, tensors: Tensors) -> str:
    """Write one file of tensors, sync it and return its sha256."""
    path = folder / f"{name}.safetensors"
    save_file({key: tensor.detach().contiguous().cpu() for key, tensor in tensors.items()}, path)
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return sha256_of_file(path)


def _write_state(path: Path, state: Mapping[str, Any]) -> None:
    body = json.dumps({**state, "checksum": _checksum(state)}, indent=1, sort_keys=True)
    with path.open("w") as file:
        file.write(body + "\n")
        file.flush()
        os.fsync(file.fileno())


def _read_state(path: Path) -> dict[str, Any]:
    try:
        state = json.loads(path.read_bytes())
        checksum = state.pop("checksum")
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise StateError(f"{path}: damaged: not the state of a checkpoint ({error!r})") from error
    if checksum != _checksum(state):
        raise StateError(f"{path}: damaged: its checksum is not that of its content")
    return dict(state)


def _checksum(state: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def _prune(folder: Path, *, step: int, keep: set[int]) -> None:
    """Remove all checkpoints except ``step``, the one before it and those to keep.

    A folder is renamed before it is removed, so that a kill in between leaves nothing that looks like a checkpoint.
    """
    steps = list_checkpoints(folder)
    last_two = [s for s in steps if s <= step][-2:]
    for old in steps:
        if old not in last_two and (old not in keep or old > step):
            path = checkpoint_path(folder, old)
            path.rename(path.with_name(f"{path.name}.tmp.{os.getpid()}"))
    _remove_leftovers(folder)


def _remove_leftovers(folder: Path) -> None:
    """Remove folders with temporary names: of a killed run, or just renamed by `_prune`."""
    for entry in folder.glob("step-*.tmp.*"):
        shutil.rmtree(entry, ignore_errors=True)
