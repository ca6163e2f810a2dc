"""The output folder of a preparation: its paths, its lock, and what is removed from it.

OUT/prepare.toml                          the configuration
OUT/train, OUT/eval                       the datasets
OUT/.prepare/lock                         held by the process that prepares
OUT/.prepare/plan.json, <split>.arrow     which manifest row goes into which shard
OUT/.prepare/receipts/<split>/000000.json one for each finished shard
OUT/.prepare/workers, workers.log         heartbeats and messages of the workers; removed at the end
OUT/.prepare/slices/3-of-16.lock          held by the process that prepares a slice, which shares OUT/.prepare/lock

Where OUT is in a bucket, these are the paths of its work folder on this machine, which is emptied at the end. The
bucket holds the same files without lock, heartbeats and log, and OUT/.prepare/lease.json during a run.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from whisper_shard.dataset.description import DATASET_NAME
from whisper_shard.errors import ConfigError, StateError
from whisper_shard.prepare.remote import RemoteOutput, empty_folder, hold_remote
from whisper_shard.storage.atomic import WRITER, AtomicWriter
from whisper_shard.storage.location import Location
from whisper_shard.storage.lock import hold_lock
from whisper_shard.storage.object_store import ObjectStore
from whisper_shard.storage.work_folder import work_folder

SPLITS = ("train", "eval")
"""Names of the datasets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputFolder:
    """The paths of a preparation, and the writer of its files."""

    path: Path
    """The folder the user named, or the work folder of a bucket."""
    writer: AtomicWriter = WRITER
    """Writes every file that is kept; crash tests replace it."""
    remote: RemoteOutput | None = None
    """The copy in a bucket, where the user named a bucket."""
    store: ObjectStore = field(default_factory=ObjectStore)
    """Access to object storage, for the recordings too."""
    node: Path | None = None
    """Folder of this machine for heartbeats and messages, where ``path`` is shared by several machines."""

    @property
    def shown(self) -> Path | Location:
        """What the user named, for messages."""
        return self.remote.location if self.remote else self.path

    @property
    def lock(self) -> Path:
        """Held by the process that prepares."""
        return self.state / "lock"

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
        return (self.node or self.state) / "workers"

    @property
    def worker_log(self) -> Path:
        """What decoders print to standard error."""
        return (self.node or self.state) / "workers.log"

    def rows(self, split: str) -> Path:
        """Arrow file with the manifest rows of a dataset, one batch per shard."""
        return self.state / f"{split}.arrow"

    def receipts(self, split: str) -> Path:
        """Folder of the receipts of a dataset's shards."""
        return self.state / "receipts" / split

    def dataset(self, split: str) -> Path:
        """Folder of a dataset."""
        return self.path / split

    def upload(self, *paths: Path) -> None:
        """Copy files to the bucket, one after the other; do nothing where the output is a local folder.

        Raises:
            EnvironmentFault: The retry budget is spent.
            ConfigError: Bucket, credentials or endpoint are wrong.
        """
        for path in paths:
            if self.remote:
                self.remote.upload(path)

    def remove(self, path: Path) -> None:
        """Remove a file, first from the bucket; that it does not exist is no fault."""
        if self.remote:
            self.remote.remove(path)
        path.unlink(missing_ok=True)

    def commit(self, path: Path, content: bytes) -> None:
        """Write a file that says that others are complete; a bucket must not hold another one yet.

        Raises:
            StateError: The bucket holds one with other bytes.
            EnvironmentFault: The disk or the network fails.
        """
        if self.remote:  # first: what is only here does not count
            self.remote.create(path, content)
        with self.writer.file(path) as file:
            file.write(content)

    def tar_sizes(self, split: str) -> dict[str, int]:
        """Return the size of each tar of a dataset, bytes, by file name."""
        shards = self.dataset(split) / "shards"
        if self.remote:
            return {path.name: info.num_bytes for path, info in self.remote.list(shards).items()}
        return {path.name: path.stat().st_size for path in shards.glob("*.tar") if path.is_file()}

    def count_receipts(self) -> int:
        """Return how many shards of all datasets have receipts."""
        folders = [self.receipts(split) for split in SPLITS]
        if self.remote:
            return sum(path.suffix == ".json" for folder in folders for path in self.remote.list(folder))
        return sum(1 for folder in folders for _ in folder.glob("[0-9]*.json"))


def open_output(
    out: Location, *, writer: AtomicWriter = WRITER, store: ObjectStore | None = None, node: Path | None = None
) -> OutputFolder:
    """Return the paths of an output.

    Args:
        out: A folder of this machine or of a bucket.
        writer: Writes all files.
        store: Access to object storage.
        node: Folder of this machine for one of several processes that prepare parts of the same output; None: this
            process prepares all of it.

    Raises:
        ConfigError: The place can only be read.
    """
    if out.scheme == "https":
        raise ConfigError(f"OUT {out}: https can only be read; give a bucket or a local folder")
    if out.is_local:
        return OutputFolder(path=out.path, writer=writer, store=store or ObjectStore(), node=node)
    work = node / "output" if node else work_folder("prepare", out)
    remote = RemoteOutput(location=out, work=work, store=store or ObjectStore())
    return OutputFolder(path=work, writer=writer, remote=remote, store=remote.store, node=node)


@contextmanager
def lock_output(output: OutputFolder) -> Iterator[Callable[[], None]]:
    """Create the output folder and hold its lock; of a bucket, hold its lease too and fetch what earlier runs left.

    Yields:
        A function that raises StateError if the lease is lost.

    Raises:
        InUseError: Another process holds the lock.
        StateError: The folder contains datasets that `prepare` did not make.
        ConfigError: The output is not a folder; or bucket, credentials or endpoint are wrong.
        EnvironmentFault: The disk or the network fails.
    """
    if output.remote is None and not output.state.exists():
        _check_own(output, any(output.dataset(split).exists() for split in SPLITS))
    with hold_lock(output.lock, folder=output.shown, name="output", doing="preparing"):
        if output.remote is None:
            yield lambda: None
            return
        with hold_remote(output.remote, state=output.state) as check_lease:
            _restore(output, output.remote)
            yield check_lease


@contextmanager
def share_output(output: OutputFolder, *, part: str) -> Iterator[None]:
    """Hold the lock of a slice; `lock_output` is refused meanwhile, but not other slices.

    A bucket has no such lock: shards that two processes make are equal to the bit, and receipts are written once.

    Args:
        output: Where the plan exists already.
        part: Name of the slice, such as ``3-of-16``.

    Raises:
        InUseError: Another process holds the lock of the folder, or prepares the same slice.
        EnvironmentFault: The disk or the network fails.
    """
    if output.remote:
        yield
        return
    own = output.state / "slices" / f"{part}.lock"
    with (
        hold_lock(output.lock, folder=output.shown, name="output", doing="preparing", is_shared=True),
        hold_lock(own, folder=output.shown, name="output", doing=f"preparing slice {part}"),
    ):
        yield


def fetch_plan(output: OutputFolder) -> None:
    """Fetch plan and receipts from the bucket; do nothing where the output is a local folder.

    Raises:
        StateError: The bucket holds datasets that `prepare` did not make.
        EnvironmentFault: The network fails.
    """
    if output.remote:
        output.state.mkdir(parents=True, exist_ok=True)
        _restore(output, output.remote)


def _check_own(output: OutputFolder, has_datasets: bool) -> None:
    if has_datasets:
        raise StateError(f"{output.shown}: holds train or eval, but not from `prepare`; choose another output folder")


def _restore(output: OutputFolder, remote: RemoteOutput) -> None:
    """Replace the work folder by plan and receipts of the bucket."""
    # All of it: another machine may have gone on since this one stopped.
    empty_folder(output.path, keep=output.lock)
    found = remote.list(output.state)
    if output.plan not in found:
        _check_own(output, any(remote.list(output.dataset(split)) for split in SPLITS))
        return
    wanted = [info for path, info in found.items() if path.suffix == ".arrow" or path == output.plan]
    wanted += [info for path, info in found.items() if path.parent.parent == output.state / "receipts"]
    remote.fetch(wanted)


def empty_work_folder(output: OutputFolder) -> None:
    """Remove what is in the bucket from this machine; do nothing where the output is a local folder."""
    if output.remote:
        empty_folder(output.path, keep=output.lock)


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
        output.remove(output.dataset(split) / DATASET_NAME)
    for split in SPLITS:
        for folder in (output.receipts(split), output.dataset(split)):
            if output.remote:
                output.remote.remove(*output.remote.list(folder))
            shutil.rmtree(folder, ignore_errors=True)
    output.remove(output.plan)
