"""Whole files beside a dataset, on this machine or in object storage: read, written atomically, listed, removed."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from whisper_shard.storage.atomic import as_environment_fault, atomic_file
from whisper_shard.storage.location import Location
from whisper_shard.storage.object_store import ObjectStore


def read_file(location: Location, store: ObjectStore, *, max_bytes: int) -> bytes:
    """Return the content of a file.

    Raises:
        FileNotFoundError: There is none, or it is longer than ``max_bytes``.
        EnvironmentFault: The disk or the network fails.
        ConfigError: Bucket, credentials or endpoint are wrong.
    """
    if not location.is_local:
        return store.get(location, max_bytes=max_bytes)
    path = location.path
    if not path.is_file() or path.stat().st_size > max_bytes:
        raise FileNotFoundError(path)
    return path.read_bytes()


def write_file(location: Location, content: bytes, store: ObjectStore) -> None:
    """Write a file, all or nothing; what is there is replaced, and folders above it are made.

    Raises:
        EnvironmentFault: The disk or the network fails.
        ConfigError: Bucket, credentials or endpoint are wrong, or the place can only be read.
    """
    if not location.is_local:
        store.put(location, content)
        return
    try:
        location.path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise as_environment_fault(error, location.path.parent) from error
    with atomic_file(location.path) as file:
        file.write(content)


def list_files(folder: Location, store: ObjectStore) -> Iterator[str]:
    """Yield the names of the files in a folder, sorted; none where there is no such folder.

    Raises:
        EnvironmentFault: The network fails.
        ConfigError: Bucket, credentials or endpoint are wrong, or the place cannot be listed.
    """
    if folder.is_local:
        yield from sorted(path.name for path in Path(folder.path).glob("*") if path.is_file())
        return
    skipped = len(folder.key) + 1 if folder.key else 0
    names = sorted(info.location.key[skipped:] for info in store.list(folder))
    yield from (name for name in names if "/" not in name)


def remove_file(location: Location, store: ObjectStore) -> None:
    """Remove a file; that there is none is no fault.

    Raises:
        EnvironmentFault: The disk or the network fails.
    """
    if not location.is_local:
        store.delete(location)
        return
    try:
        location.path.unlink(missing_ok=True)
    except OSError as error:
        raise as_environment_fault(error, location.path) from error


def remove_files(folder: Location, store: ObjectStore) -> None:
    """Remove a folder with all its files; that there is none is no fault.

    Raises:
        EnvironmentFault: The disk or the network fails.
    """
    if folder.is_local:
        shutil.rmtree(folder.path, ignore_errors=True)
        return
    for name in list_files(folder, store):
        store.delete(folder.join(name))
