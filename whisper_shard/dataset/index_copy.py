"""Copies of the indexes of datasets in object storage: fetched once to this machine, then used by all its processes.

They lie in the user's cache folder (``$XDG_CACHE_HOME/whisper-shard``, else ``~/.cache/whisper-shard``), each in a
folder named by the sha256 of the index: another version of a dataset never meets the copy of an old one. They may be
removed at any time.
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from whisper_shard.dataset.description import DATASET_NAME, INDEX_NAME, LENGTHS_NAME, Description, FileInfo
from whisper_shard.errors import DatasetError, EnvironmentFault
from whisper_shard.storage.atomic import atomic_file, sha256_of_file
from whisper_shard.storage.location import Location
from whisper_shard.storage.object_store import ObjectStore
from whisper_shard.storage.work_folder import cache_folder

_SMALLEST_LIMIT = 1 << 20
_LONGEST_ROW = {INDEX_NAME: 16 << 10, LENGTHS_NAME: 16}
"""Bytes an utterance that a file may have, besides 1 MB: nobody fills a disk through a false dataset.json."""


def copy_index(folder: Location, description: Description, store: ObjectStore, *, is_hashed: bool) -> Path:
    """Return the folder on this machine with the index and the lengths of a dataset; fetch what is not there yet.

    Args:
        folder: The dataset.
        description: Sizes and checksums; what does not match them is not kept.
        store: Access to it.
        is_hashed: Whether to hash an index that is there already, or compare its size only.

    Raises:
        DatasetError: A file is missing, or is not the one that dataset.json names.
        EnvironmentFault: The network fails, or the copy cannot be written.
    """
    copies = cache_folder() / description.index.sha256
    try:
        copies.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _one_at_a_time(copies / "lock"):
            files = [(INDEX_NAME, description.index, is_hashed)]
            if description.lengths is not None:
                files.append((LENGTHS_NAME, description.lengths, True))
            for name, info, hashed in files:
                if not _is_copied(copies / name, info, is_hashed=hashed):
                    _check_size(folder.join(name), info, description.totals.num_utterances)
                    _fetch(store, folder.join(name), info, copies / name)
    except OSError as error:
        raise EnvironmentFault(
            f"{copies}: cannot keep a copy of the index: {error.strerror}; set XDG_CACHE_HOME to a folder that can be "
            "written"
        ) from error
    return copies


@contextmanager
def _one_at_a_time(lock: Path) -> Iterator[None]:
    """Wait for other processes of this machine that fetch the same files, and remove what a killed one left."""
    with lock.open("a") as file:
        with suppress(OSError):  # some shared file systems have no locks: then a file may be fetched twice, no more
            fcntl.flock(file, fcntl.LOCK_EX)
            for path in lock.parent.glob("*.tmp.*"):
                path.unlink(missing_ok=True)
        yield


def _is_copied(path: Path, info: FileInfo, *, is_hashed: bool) -> bool:
    if not path.is_file() or path.stat().st_size != info.num_bytes:
        return False
    return not is_hashed or sha256_of_file(path) == info.sha256


def _check_size(location: Location, info: FileInfo, num_utterances: int) -> None:
    limit = _SMALLEST_LIMIT + _LONGEST_ROW[location.name] * num_utterances
    if info.num_bytes > limit:
        raise DatasetError(
            f"{location}: {info.num_bytes} bytes for {num_utterances} utterances cannot be right; prepare it again"
        )


def _fetch(store: ObjectStore, location: Location, info: FileInfo, path: Path) -> None:
    with atomic_file(path) as file:
        for piece in _stream(store, location, info.num_bytes):
            file.write(piece)
        if file.sha256 != info.sha256:
            raise DatasetError(
                f"{location}: has sha256 {file.sha256}, {DATASET_NAME} says {info.sha256}; restore it or prepare the "
                "dataset again"
            )


def _stream(store: ObjectStore, location: Location, num_bytes: int) -> Iterator[bytes | memoryview]:
    try:
        yield from store.stream(location, num_bytes)
    except FileNotFoundError as error:
        raise DatasetError(f"{location}: is missing; restore it or prepare the dataset again") from error
