"""A checkpoint: everything a run resumes from, in a folder that is either complete or absent.

``step-00000123/`` holds tensors in safetensors files and everything else in ``state.json``, which is written last and
contains the sha256 of every other file and a checksum of itself. The folder is written under a temporary name, synced
and renamed. Nothing is pickled, so loading a checkpoint runs no code.

With ``--shard`` all ranks write at once, each its rows of every tensor into files of its own. Put together in order of
rank they are the whole tensors, so that any number of ranks can go on from them.

Source: safetensors, https://github.com/huggingface/safetensors (a JSON header and raw bytes).
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from whisper_shard.errors import EnvironmentFault, StateError
from whisper_shard.storage.atomic import as_environment_fault, sha256_of_file, sync_folder
from whisper_shard.train.ranks import Ranks, gather_texts

STATE_NAME = "state.json"
FORMAT_VERSION = 5
READABLE_VERSIONS = (4, 5)
"""Versions that are read; 4 had no files of several ranks."""
_FOLDER = re.compile(r"step-(\d{8})")
_FILE = re.compile(r"(\w+?)(?:-(\d+)-of-\d+)?\.safetensors")
Tensors = Mapping[str, torch.Tensor]
"""Tensors by name: parameters, moments ..."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The content of a checkpoint, verified."""

    step: int
    """Optimizer steps made when it was saved."""
    tensors: Mapping[str, Tensors]
    """Groups of whole tensors: ``model``, ``optimizer``, ``random``, and ``average`` if there is one."""
    state: Mapping[str, Any]
    """Everything that is not a tensor."""
    folder: Path
    """Its folder."""


def save_checkpoint(
    folder: Path,
    *,
    step: int,
    tensors: Mapping[str, Tensors],
    state: Mapping[str, Any],
    keep: Iterable[int] = (),
    ranks: Ranks | None = None,
) -> Path:
    """Write a checkpoint, then remove all others except the one before it and those of ``keep``.

    Newer ones are removed as well: they can only be damaged ones that a resumed run has passed over.

    Args:
        folder: Folder of all checkpoints of a run; created if missing.
        step: Its number; an existing checkpoint of this step is replaced.
        tensors: Groups of tensors; each becomes one file, or one of each rank. See `copy_own_tensors`.
        state: Everything else, as JSON values; that of rank 0 is written.
        keep: Steps whose checkpoints must stay.
        ranks: The processes that write together, each its rows; all must call it together. None: this one alone.

    Raises:
        EnvironmentFault: The disk is full or cannot be written, on any rank.
        TrainingError: Another rank is gone.
    """
    ranks = ranks or Ranks()
    final = checkpoint_path(folder, step)
    temporary = folder / f"{final.name}.tmp.new"

    def prepare() -> list[str]:
        if ranks.is_first:
            folder.mkdir(parents=True, exist_ok=True)
            _remove_leftovers(folder)
            temporary.mkdir()
        return []

    def write() -> list[str]:
        files = {_file_name(name, ranks): group for name, group in tensors.items() if group or ranks.is_first}
        return [f"{name} {_write_tensors(temporary / name, group)}" for name, group in files.items()]

    def complete() -> list[str]:
        if ranks.is_first:
            files = dict(line.split(" ") for line in lines)
            _write_state(temporary / STATE_NAME, {"version": FORMAT_VERSION, "step": step, "files": files, **state})
            sync_folder(temporary)
            if final.exists():
                final.rename(final.with_name(f"{final.name}.tmp.old"))
            temporary.rename(final)
            sync_folder(folder)
            _prune(folder, step=step, keep=set(keep))
        return []

    _do_together(prepare, temporary, ranks)
    lines = _do_together(write, temporary, ranks)
    _do_together(complete, temporary, ranks)
    return final


def load_checkpoint(path: Path) -> Checkpoint:
    """Read one checkpoint and verify every byte of it.

    Raises:
        StateError: A file is missing or was changed, or the checkpoint has another format version.
    """
    state = _read_state(path / STATE_NAME)
    if state.get("version") not in READABLE_VERSIONS:
        readable = " and ".join(map(str, READABLE_VERSIONS))
        raise StateError(
            f"{path}: checkpoint version {state.get('version')}, this program reads {readable}; "
            "finish the run with the version that began it, or use another run folder"
        )
    for name, sha256 in state["files"].items():
        file = path / name
        found = sha256_of_file(file) if file.is_file() else "none: it is missing"
        if found != sha256:
            raise StateError(f"{file}: damaged: its sha256 is {found}, {STATE_NAME} says {sha256}")
    tensors = {group: _load_group(path, names) for group, names in _group_files(state["files"]).items()}
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


def read_tensors(path: Path, name: str) -> Tensors:
    """Read one group of whole tensors of a checkpoint, verified.

    Raises:
        StateError: A file is missing or was changed.
    """
    files = _read_state(path / STATE_NAME)["files"]
    names = _group_files(files).get(name, [f"{name}.safetensors"])
    for file in (path / leaf for leaf in names):
        if not file.is_file() or sha256_of_file(file) != files.get(file.name):
            raise StateError(f"{file}: damaged or missing; remove {path} and run again from the checkpoint before it")
    return _load_group(path, names)


class JoinedTensors(Mapping[str, torch.Tensor]):
    """Whole tensors whose rows several ranks have written; each is put together when it is asked for.

    Args:
        parts: Tensors by name, in order of rank; what only one of them has is whole.
    """

    def __init__(self, parts: Sequence[Tensors]) -> None:
        self._parts = parts

    def __getitem__(self, name: str) -> torch.Tensor:
        """Return a whole tensor."""
        rows = [part[name] for part in self._parts if name in part]
        if not rows:
            raise KeyError(name)
        return rows[0] if len(rows) == 1 else torch.cat(rows)

    def __iter__(self) -> Iterator[str]:
        """Yield all names."""
        return iter(dict.fromkeys(name for part in self._parts for name in part))

    def __len__(self) -> int:
        """Return the number of names."""
        return len({name for part in self._parts for name in part})


def _load_group(path: Path, names: Sequence[str]) -> Tensors:
    parts = [load_file(path / name) for name in names]  # mapped into memory: only what is used is read
    return parts[0] if len(parts) == 1 else JoinedTensors(parts)


def _group_files(names: Iterable[str]) -> dict[str, list[str]]:
    """Return the files of each group of tensors, in order of rank."""
    groups: dict[str, list[tuple[int, str]]] = {}
    for name in names:
        if match := _FILE.fullmatch(name):
            groups.setdefault(match[1], []).append((int(match[2] or 0), name))
    return {group: [name for _, name in sorted(files)] for group, files in groups.items()}


def _file_name(group: str, ranks: Ranks) -> str:
    part = f"-{ranks.rank + 1}-of-{ranks.world}" if ranks.world > 1 else ""
    return f"{group}{part}.safetensors"


def _do_together(work: Callable[[], list[str]], temporary: Path, ranks: Ranks) -> list[str]:
    """Do some work on every rank and return the lines of all; where it fails on one rank, it fails on all.

    Raises:
        EnvironmentFault: The disk of any rank is full or cannot be written.
        TrainingError: Another rank is gone.
    """
    lines, faults = [], []
    try:
        lines = work()
    except (OSError, SafetensorError) as error:
        faults = [_explain_fault(error, temporary, ranks)]
    for fault in gather_texts(faults, ranks):
        shutil.rmtree(temporary, ignore_errors=True)
        raise EnvironmentFault(fault)
    return gather_texts(lines, ranks)


def _explain_fault(error: Exception, temporary: Path, ranks: Ranks) -> str:
    if ranks.world > 1 and not temporary.is_dir():
        return (
            f"{temporary.parent}: rank {ranks.rank} does not see the folder that rank 0 has made in it; put RUN on a "
            "filesystem that all ranks share"
        )
    final = temporary.with_name(temporary.name.partition(".")[0])
    if isinstance(error, OSError):
        return str(as_environment_fault(error, final))
    return f"{final}: cannot write: {error}; free some space and run the same command again"


def _write_tensors(path: Path, tensors: Tensors) -> str:
    """Write one file of tensors, sync it and return its sha256."""
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path)
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
