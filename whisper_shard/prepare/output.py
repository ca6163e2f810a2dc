"""The output folder: one writer at a time, swept of what a killed run left half-written."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from whisper_shard.dataset.description import DATASET_NAME
from whisper_shard.errors import StateError
from whisper_shard.storage.lock import hold_lock

STATE_NAME = ".prepare"
"""Folder in the output with all that a run needs to go on: lock, plan, receipts, markers of the workers."""


@contextmanager
def sole_writer(out: Path) -> Iterator[Path]:
    """Make the output folder and hold its lock; the lock goes with the process, however it ends.

    Raises:
        StateError: Another process has it, or the folder holds datasets that are not from a run like this.
        ConfigError: The output is not a folder.
    """
    state = out / STATE_NAME
    if not state.exists() and any((out / name).exists() for name in ("train", "eval")):
        raise StateError(f"{out}: holds train or eval, but not from `prepare`; choose another output folder")
    with hold_lock(state / "lock", folder=out, name="output", doing="preparing"):
        yield state


def sweep(out: Path, state: Path) -> None:
    """Remove what a killed run left half-written; the lock is ours, so nobody is writing it."""
    for folder in (out, state, *out.glob("*/shards"), *(state / "receipts").glob("*"), out / "train", out / "eval"):
        for path in folder.glob("*.tmp.*"):
            path.unlink(missing_ok=True)
    for path in (*state.glob("*.spool"), *state.glob("*.bucket*")):
        path.unlink()


def forget(out: Path, state: Path) -> None:
    """Remove all that earlier runs made, dataset.json first."""
    for name in ("train", "eval"):
        (out / name / DATASET_NAME).unlink(missing_ok=True)
    shutil.rmtree(state / "receipts", ignore_errors=True)
    for name in ("train", "eval"):
        shutil.rmtree(out / name, ignore_errors=True)
    (state / "plan.json").unlink(missing_ok=True)
