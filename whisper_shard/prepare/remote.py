"""An output in object storage: shards are written in a work folder of this machine, and copied to the bucket.

The bucket alone says what is finished: a shard is, once its receipt is there, which is uploaded after the tar. A run
begins by fetching plan and receipts, so that any machine resumes it, and a tar leaves this machine when its shard is
finished: the work folder holds no more than the shards that are being written.
"""

import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from whisper_shard.errors import StateError
from whisper_shard.storage.atomic import as_environment_fault
from whisper_shard.storage.lease import hold_lease
from whisper_shard.storage.location import Location
from whisper_shard.storage.object_store import ObjectInfo, ObjectStore

_T = TypeVar("_T")
_SMALL_BYTES = 1 << 20
"""Files up to this size are uploaded from memory, in one request."""
_AT_ONCE = 16
"""Small objects that are fetched or removed at the same time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteOutput:
    """The copy of an output folder in a bucket. Paths are local ones, below its work folder."""

    location: Location
    """The folder in the bucket."""
    work: Path
    """The work folder."""
    store: ObjectStore = field(default_factory=ObjectStore)
    """Access to it."""

    def locate(self, path: Path) -> Location:
        """Return where a file or a folder of the work folder lies in the bucket."""
        return self.location.join(*path.relative_to(self.work).parts)

    def list(self, folder: Path) -> dict[Path, ObjectInfo]:
        """Return the objects below a folder, by the path that they have in the work folder."""
        prefix = len(self.location.key) + 1 if self.location.key else 0
        return {self.work / info.location.key[prefix:]: info for info in self.store.list(self.locate(folder))}

    def upload(self, path: Path) -> None:
        """Copy a file to the bucket; what is there is replaced.

        Raises:
            EnvironmentFault: The retry budget is spent.
            ConfigError: Bucket, credentials or endpoint are wrong.
        """
        self.store.put(self.locate(path), path.read_bytes() if path.stat().st_size < _SMALL_BYTES else path)

    def create(self, path: Path, data: bytes) -> None:
        """Write an object that must not exist yet, with other bytes than these.

        Raises:
            StateError: It does.
            EnvironmentFault: The retry budget is spent.
            ConfigError: Bucket, credentials or endpoint are wrong.
        """
        try:
            self.store.put(self.locate(path), data, if_absent=True)
        except FileExistsError as error:
            raise StateError(
                f"{self.locate(path)}: another process has just written it; end that process, then run the same "
                "command again"
            ) from error

    def remove(self, *paths: Path) -> None:
        """Remove objects from the bucket; those that do not exist are ignored."""
        _do_all(lambda path: self.store.delete(self.locate(path)), paths)

    def fetch(self, found: Iterable[ObjectInfo]) -> None:
        """Download objects into the work folder.

        Raises:
            EnvironmentFault: The retry budget is spent, or the work folder cannot be written.
            DatasetError: An object is replaced meanwhile.
        """
        _do_all(self._fetch, found)

    def _fetch(self, info: ObjectInfo) -> None:
        prefix = len(self.location.key) + 1 if self.location.key else 0
        path = self.work / info.location.key[prefix:]
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                for piece in self.store.stream(info.location, info.num_bytes):
                    file.write(piece)
        except FileNotFoundError as error:
            raise StateError(
                f"{info.location}: was removed while it was fetched; run the same command again"
            ) from error
        except OSError as error:
            raise as_environment_fault(error, path) from error


@contextmanager
def hold_remote(remote: RemoteOutput, *, state: Path) -> Iterator[Callable[[], None]]:
    """Hold the lease of an output in a bucket.

    Args:
        remote: The output.
        state: Its folder for everything needed to resume.

    Yields:
        A function that raises StateError if another process has taken the lease.

    Raises:
        StateError: Another process holds it.
        EnvironmentFault: The network fails.
        ConfigError: Bucket, credentials or endpoint are wrong, or the place can only be read.
    """
    place = remote.locate(state / "lease.json")
    with hold_lease(place, remote.store, folder=remote.location, name="output", doing="preparing") as lease:
        yield lease.check


def empty_folder(folder: Path, *, keep: Path) -> None:
    """Remove everything in a folder but one file."""
    for path in folder.iterdir():
        if path == keep:
            continue
        if path.is_dir() and path in keep.parents:
            empty_folder(path, keep=keep)
        elif path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _do_all(function: Callable[[_T], None], items: Iterable[_T]) -> None:
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        try:
            for _ in pool.map(function, items):
                pass
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
