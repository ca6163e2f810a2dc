"""The output folder of a preparation: its paths, its lock, and what is removed from it.

OUT/prepare.toml                          the configuration
OUT/train, OUT/eval                       the datasets
OUT/.prepare/lock                         held by the process that prepares
OUT/.prepare/plan.json, <split>.arrow     which manifest row goes into which shard
OUT/.prepare/receipts/<split>/000000.json one for each finished shard
OUT/.prepare/workers, workers.log         heartbeats and messages of the workers; removed at the end
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from whisper_shard.dataset.description import DATASET_NAME
from whisper_shard.errors import StateError
from whisper_shard.storage.atomic import WRITER, AtomicWriter
from whisper_shard.storage.lock import hold_lock

SPLITS = ("train", "eval")
"""Names of the datasets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputFolder:
    """The paths of a preparation, and the writer of its files."""

    path: Path
    """The folder the user named."""
    writer: AtomicWriter = WRITER
    """Writes every file that is kept; crash tests replace it."""

    @property
    def state(self) -> Path:
        """Folder with everything needed to resume."""
        return self.path / ".prepare"

    @property
    def settings(self) -> Path:
        """The configuration as TOML."""
        return self.path / "prepare.toml"

    @property
    def plan(self) -> Path:
        """The plan; while it does not exist, nothing else counts."""
        return self.state / "plan.json"

    @property
    def heartbeats(self) -> Path:
        """Folder with one small file for each worker."""
        return self.state / "workers"

    @property
    def worker_log(self) -> Path:
        """What decoders print to standard error."""
        return self.state / "workers.log"

    def rows(self, split: str) -> Path:
        """Arrow file with the manifest rows of a dataset, one batch per shard."""
        return self.state / f"{split}.arrow"

    def receipts(self, split: str) -> Path:
        """Folder of the receipts of a dataset's shards."""
        return self.state / "receipts" / split

    def dataset(self, split: str) -> Path:
        """Folder of a dataset."""
        return self.path / split


@contextmanager
def lock_output(output: OutputFolder) -> Iterator[None]:
    """Create the output folder and hold its lock.

    Raises:
        StateError: Another process holds the lock, or the folder contains datasets that `prepare` did not make.
        ConfigError: The output is not a folder.
    """
    if not output.state.exists() and any(output.dataset(split).exists() for split in SPLITS):
        raise StateError(f"{output.path}: holds train or eval, but not from `prepare`; choose another output folder")
    with hold_lock(output.state / "lock", folder=output.path, name="output", doing="preparing"):
        yield


def remove_temp_files(output: OutputFolder) -> None:
    """Remove the unfinished files of killed processes; call it with the lock held, while no worker is running."""
    datasets = [output.dataset(split) for split in SPLITS]
    shards = [dataset / "shards" for dataset in datasets]
    receipts = [output.receipts(split) for split in SPLITS]
    for folder in (output.path, output.state, *datasets, *shards, *receipts):
        for path in folder.glob("*.tmp.*"):
            path.unlink(missing_ok=True)
    for path in (*output.state.glob("*.spool"), *output.state.glob("*.bucket*")):
        path.unlink()


def remove_output(output: OutputFolder) -> None:
    """Remove everything that earlier runs made."""
    # A dataset exists as long as dataset.json does, and the plan says that the rest belongs to a preparation. So one
    # goes first and the other last: a kill in between leaves neither a damaged dataset nor files of unknown origin.
    for split in SPLITS:
        (output.dataset(split) / DATASET_NAME).unlink(missing_ok=True)
    for split in SPLITS:
        shutil.rmtree(output.receipts(split), ignore_errors=True)
        shutil.rmtree(output.dataset(split), ignore_errors=True)
    output.plan.unlink(missing_ok=True)
