"""Folders that are either complete or absent, as `atomic_file` is for single files."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from whisper_shard.storage.atomic import as_environment_fault, sync_folder


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Give a folder to fill; it gets its name only when the block ends, with all its files on the disk.

    A folder of that name is replaced. If the block fails, nothing is left of the new one.

    Args:
        folder: Final name; folders above it are made.

    Raises:
        EnvironmentFault: The disk is full, failing or not writable.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    old = folder.with_name(f".{folder.name}.old")
    try:
        for leftover in (partial, old):
            shutil.rmtree(leftover, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        _sync_files(partial)
        if folder.exists():
            folder.rename(old)
        partial.rename(folder)
        sync_folder(folder.parent)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise as_environment_fault(error, folder) from error
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _sync_files(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
