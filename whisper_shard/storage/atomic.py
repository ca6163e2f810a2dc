"""Files that are either complete or absent.

Every file that the package keeps is written by an `AtomicWriter`: a temporary name on the same filesystem, sha256
while writing, fsync, rename, fsync of the folder. A reader never sees half a file, and a kill at any moment leaves
either the old file or the new one (and perhaps a ``*.tmp.<pid>``, which the next run removes).
"""

import ctypes
import errno
import hashlib
import io
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from whisper_shard.errors import EnvironmentFault

_PATH_ERRNOS = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EISDIR, errno.ENXIO}
"""Errors that a wrong path alone can cause. Any other (a lost mount, a full disk) is the machine's fault."""
_WRITEBACK_BYTES = 1 << 20
_LAG_BYTES = 4 << 20
"""How far behind the end of a file its pages are dropped from the cache; by then they are on the disk."""
_SYNC_FILE_RANGE_WRITE = 2
_SYNC_FILE_RANGE = getattr(ctypes.CDLL(None), "sync_file_range", None)  # Linux only; elsewhere fsync does it all
_HAS_FADVISE = hasattr(os, "posix_fadvise")


class HashingFile:
    """A file open for writing that keeps count of its length and its sha256."""

    def __init__(self, file: io.FileIO) -> None:
        self._file = file
        self._sha256 = hashlib.sha256()
        self._num_bytes_sent = self._num_bytes_dropped = 0
        self.num_bytes = 0
        self.closed = False

    def write(self, *parts: bytes | memoryview) -> None:
        """Append ``parts`` with one system call, without a buffer, which would only copy them again."""
        descriptor, num_bytes = self._file.fileno(), sum(map(len, parts))
        num_written = os.writev(descriptor, parts)
        if num_written < num_bytes:  # the disk is nearly full, or a signal interrupted the call
            rest = memoryview(b"".join(parts))[num_written:]
            while rest:
                rest = rest[os.write(descriptor, rest) :]
        for part in parts:
            self._sha256.update(part)
        self.num_bytes += num_bytes
        if self.num_bytes - self._num_bytes_sent >= _WRITEBACK_BYTES:
            _start_writeback(descriptor, self._num_bytes_sent, self.num_bytes - self._num_bytes_sent)
            self._num_bytes_sent = self.num_bytes
            self._drop_pages(self.num_bytes - _LAG_BYTES)

    def sync(self) -> None:
        """Wait until everything written so far is on the disk."""
        os.fsync(self._file.fileno())
        self._drop_pages(self._num_bytes_sent)

    def tell(self) -> int:
        """Return the position, which is always the end of the file."""
        return self.num_bytes

    def flush(self) -> None:
        """Do nothing: there is no buffer. Arrow calls it."""

    def close(self) -> None:
        """Do nothing: `AtomicWriter.file` closes the file. Arrow calls it."""

    @property
    def sha256(self) -> str:
        """Hexadecimal digest of everything written so far."""
        return self._sha256.hexdigest()

    def _drop_pages(self, end: int) -> None:
        """Drop the pages before ``end`` from the page cache, so that the next writes reuse their memory.

        A fresh page can cost ten times as much as one that was used just now, above all in a virtual machine; and
        caching recordings that will be read again is a better use of memory than caching a tar just written.
        """
        if end > self._num_bytes_dropped and _HAS_FADVISE:
            num_bytes = end - self._num_bytes_dropped
            os.posix_fadvise(self._file.fileno(), self._num_bytes_dropped, num_bytes, os.POSIX_FADV_DONTNEED)
            self._num_bytes_dropped = end


class AtomicWriter:
    """Writes files that appear under their names only when they are complete and on the disk.

    Crash tests pass a subclass whose `after_step` ends the process, or fails, between two steps of a commit. It must
    be picklable, since worker processes write with it, too.
    """

    @contextmanager
    def file(self, path: Path) -> Iterator[HashingFile]:
        """Write a file; an existing one is replaced at the end, in one step.

        Args:
            path: Final name; its folder must exist.

        Raises:
            EnvironmentFault: The disk is full, failing or not writable; names the path.
        """
        temporary = path.with_name(f"{path.name}.tmp.{os.getpid()}")
        try:
            with temporary.open("wb", buffering=0) as file:
                hashing = HashingFile(file)
                yield hashing
                self.after_step(path, "written")
                hashing.sync()
            self.after_step(path, "synced")
            temporary.replace(path)
            self.after_step(path, "renamed")
            # Without this, a power loss could undo the rename although the bytes are on the disk.
            sync_folder(path.parent)
            self.after_step(path, "committed")
        except OSError as error:
            _discard(temporary)
            raise as_environment_fault(error, path) from error
        except BaseException:
            _discard(temporary)
            raise

    def json(self, path: Path, value: Any) -> str:
        """Write ``value`` as stable, readable JSON; return the sha256 of the file.

        Raises:
            EnvironmentFault: As in `file`.
        """
        with self.file(path) as file:
            file.write(json_bytes(value))
        return file.sha256

    def after_step(self, path: Path, step: str) -> None:
        """Do nothing.

        Args:
            path: The file that is being committed.
            step: The step just completed: ``written``, ``synced``, ``renamed`` or ``committed``.
        """


WRITER = AtomicWriter()
"""The writer of everything outside of crash tests."""
atomic_file = WRITER.file
write_json = WRITER.json


def _discard(path: Path) -> None:
    with suppress(OSError):  # a read-only filesystem refuses to remove even a file that does not exist
        path.unlink()


def _start_writeback(descriptor: int, offset: int, num_bytes: int) -> None:
    """Start writing this range to the disk while the next one is computed, so that the fsync at the end is short."""
    if _SYNC_FILE_RANGE is not None:
        _SYNC_FILE_RANGE(descriptor, ctypes.c_int64(offset), ctypes.c_int64(num_bytes), _SYNC_FILE_RANGE_WRITE)


def sync_folder(folder: Path) -> None:
    """Make renames inside ``folder`` survive a power loss."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def json_bytes(value: Any) -> bytes:
    """Return ``value`` as readable JSON in the canonical form of this package: sorted keys, UTF-8."""
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False).encode() + b"\n"


def sha256_of_file(path: Path) -> str:
    """Return the hexadecimal sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_environment_error(error: BaseException) -> bool:
    """Return whether an error is a fault of the machine (disk full, lost mount, out of memory), not of one file."""
    if isinstance(error, OSError):
        return error.errno is not None and error.errno not in _PATH_ERRNOS
    return isinstance(error, MemoryError)


def as_environment_fault(error: OSError, path: Path) -> EnvironmentFault:
    """Return an error that says in one line what failed and what to do."""
    cure = {
        errno.ENOSPC: "free some space, then run the same command again to resume",
        errno.EDQUOT: "free some quota, then run the same command again to resume",
        errno.EROFS: "the filesystem is read-only: choose another output folder",
        errno.EACCES: "permission denied: choose another folder or change its owner",
        errno.EPERM: "permission denied: choose another folder or change its owner",
        errno.ENOENT: "the folder is gone: was it removed while the program ran?",
    }.get(error.errno or 0, "fix this, then run the same command again")
    return EnvironmentFault(f"{path}: cannot write: {error.strerror or error}; {cure}")


def finite_or_none(value: Any) -> Any:
    """Return None for a float that JSON cannot represent (infinity, NaN), any other value unchanged."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
