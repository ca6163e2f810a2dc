"""A run in object storage: it works in a folder of this machine, and what it keeps is copied to the bucket.

The upload of a checkpoint is complete when its ``state.json`` is there, which is uploaded last; what lacks one is
ignored. A checkpoint is removed only after newer ones are complete. So whenever the machine is lost, the bucket holds a
checkpoint that resumes on any other machine. Uploads run beside training; only the next save waits for them.

The bucket holds a lease, an object that names the process that trains: a second one is refused.
"""

import os
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from whisper_shard.errors import ConfigError, EnvironmentFault
from whisper_shard.storage.atomic import as_environment_fault
from whisper_shard.storage.lease import hold_lease
from whisper_shard.storage.location import Location
from whisper_shard.storage.object_store import ObjectStore
from whisper_shard.storage.work_folder import work_folder
from whisper_shard.train.events import Event, Progress, Saved
from whisper_shard.train.ranks import barrier
from whisper_shard.train.run.context import RunContext

_LEASE_NAME = "lease.json"
_SMALL_BYTES = 1 << 20  # such as train.json
_LAST = ("state.json", "report.json")  # uploaded last in their folders, removed first: they say that all is there
_UNKNOWN = (-1, -1)
_NOT_UPLOADED = (".lock", ".tmp.")


@dataclass(slots=True)
class RemoteRun:
    """Copies a run between its work folder and a bucket."""

    location: Location
    """The run folder in the bucket."""
    store: ObjectStore = field(default_factory=ObjectStore)
    """Access to it."""
    _uploaded: dict[str, tuple[int, int]] = field(default_factory=dict)
    _thread: threading.Thread | None = None
    _error: Exception | None = None

    def __post_init__(self) -> None:
        """Check that the place can be written.

        Raises:
            ConfigError: It is behind https.
        """
        if self.location.scheme == "https":
            raise ConfigError(f"RUN {self.location}: https can only be read; give a bucket or a local folder")

    @property
    def folder(self) -> Path:
        """The work folder."""
        return work_folder("runs", self.location)

    # -- bucket to machine

    def pull(self) -> None:
        """Bring the work folder up to date: its own files where they are newer, else those of the bucket.

        Raises:
            EnvironmentFault: The network fails, or the work folder cannot be written.
            ConfigError: Bucket, credentials or endpoint are wrong.
        """
        # What the bucket has is replaced or removed by the next upload, where the work folder has something else.
        found = {info.location.key.removeprefix(self.location.key).lstrip("/"): info for info in self._list()}
        found.pop(_LEASE_NAME, None)
        self._uploaded = dict.fromkeys(found, _UNKNOWN)
        settings = self._read(_SMALL_BYTES, "train.json") if "train.json" in found else None
        mine = self.folder / "train.json"
        is_same_run = settings is not None and mine.is_file() and mine.read_bytes() == settings
        if is_same_run and _newest_step(_names_below(self.folder)) >= _newest_step(found):
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        complete = {name: info for name, info in found.items() if _is_wanted(name, found)}
        try:
            for name, info in complete.items():
                path = self.folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("wb") as file:
                    for piece in self.store.stream(info.location, info.num_bytes):
                        file.write(piece)
                self._uploaded[name] = _version(path)
        except OSError as error:
            raise as_environment_fault(error, self.folder) from error

    # -- machine to bucket

    def push_later(self) -> None:
        """Upload what is new, beside training; waits for the upload before.

        Raises:
            EnvironmentFault: The upload before has failed.
        """
        self.wait()
        self._thread = threading.Thread(target=self._try_push, name="run-upload", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Wait for the upload that is under way.

        Raises:
            EnvironmentFault: It has failed; everything is saved in the work folder.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise EnvironmentFault(
                f"{self.location}: the run could not be copied there ({error}); it is saved in {self.folder}: run the "
                "same command again on this machine"
            ) from error

    def push(self) -> None:
        """Upload what is new or changed, then remove from the bucket what is no longer in the work folder.

        Raises:
            EnvironmentFault: The retry budget is spent.
            ConfigError: Bucket, credentials or endpoint are wrong.
        """
        names = sorted(_names_below(self.folder), key=_order)
        for name in names:
            with suppress(FileNotFoundError):  # an older checkpoint, removed meanwhile
                path = self.folder / name
                if self._uploaded.get(name) != (version := _version(path)):
                    self.store.put(self.location.join(name), path.read_bytes() if version[0] < _SMALL_BYTES else path)
                    self._uploaded[name] = version
        here = set(_names_below(self.folder))
        for name in sorted(self._uploaded.keys() - here, key=_order, reverse=True):
            self.store.delete(self.location.join(name))
            del self._uploaded[name]

    def _try_push(self) -> None:
        try:
            self.push()
        except Exception as error:
            self._error = error

    # -- one writer

    @contextmanager
    def lease(self) -> Iterator[None]:
        """Hold the run in the bucket, and copy to it what is new at the end, however training ends.

        Raises:
            StateError: Another process trains into it.
            EnvironmentFault: The network fails.
            ConfigError: Bucket, credentials or endpoint are wrong.
        """
        with hold_lease(
            self.location.join(_LEASE_NAME), self.store, folder=self.location, name="run", doing="training"
        ) as lease:
            try:
                yield
            finally:
                self.wait()
                lease.check()
                self.push()

    def _read(self, max_bytes: int, name: str) -> bytes:
        return self.store.get(self.location.join(name), max_bytes=max_bytes)

    def _list(self) -> Iterator[Any]:
        return self.store.list(self.location)


def _names_below(folder: Path) -> Iterator[str]:
    """Yield the relative paths of the files that are copied."""
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not any(part in f"/{name}" for part in _NOT_UPLOADED):
            yield name


def _is_wanted(name: str, found: Mapping[str, Any]) -> bool:
    """Return whether a file of the bucket is fetched: of checkpoints only those that are complete."""
    folder, _, _ = name.rpartition("/")
    is_checkpoint = folder.startswith(("checkpoints/", "snapshots/"))
    return not is_checkpoint or f"{folder}/state.json" in found


def _newest_step(names: Iterator[str] | Mapping[str, Any]) -> int:
    """Return the step of the newest complete checkpoint, -1 without any."""
    states = [name for name in names if name.startswith("checkpoints/step-") and name.endswith("/state.json")]
    return max((int(name.split("/")[1].removeprefix("step-")) for name in states), default=-1)


def _order(name: str) -> tuple[int, str]:
    """Sort files so that the one which says that others are complete comes after them."""
    folder, _, leaf = name.rpartition("/")
    is_settings = 0 if name in ("train.json", "train.toml", "metrics.jsonl") else 1
    return (3 if name == "report.json" else 2 if leaf in _LAST and folder else is_settings), name


def _version(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


@contextmanager
def hold_remote_run(context: RunContext, remote: RemoteRun | None) -> Iterator[Progress]:
    """Fetch a run from its bucket, and copy it back at each save and at the end; yield the progress callback to use.

    Does nothing for a local run. Rank 0 copies back; each machine fetches for itself.
    """
    ranks, progress = context.machine.ranks, context.progress
    if remote is None:
        yield progress
        return
    with remote.lease() if ranks.is_first else nullcontext():
        if ranks.is_first or os.environ.get("LOCAL_RANK") == "0":
            remote.pull()
        barrier(ranks)

        def report_and_copy(event: Event) -> None:
            progress(event)
            if isinstance(event, Saved):
                remote.push_later()

        yield report_and_copy if ranks.is_first else progress
