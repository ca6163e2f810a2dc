"""Files that are either whole or absent, and reads at an offset.

Everything the package writes for keeps goes through `atomic_file`: a temporary name on the same filesystem, sha256
while writing, fsync, rename, fsync of the folder. A reader never meets half a file, and a kill at any moment leaves
either the old state or the new one (and perhaps a ``*.tmp.<pid>`` that the next run sweeps away).
"""

import ctypes
import errno
import hashlib
import io
import json
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from whisper_shard.errors import EnvironmentFault

_PATH_ERRNOS = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EISDIR, errno.ENXIO}
"""What a path alone can be to blame for. Anything else (a lost mount, a full disk) is the machine's fault."""
_WRITEBACK_BYTES = 1 << 20
_LAG_BYTES = 4 << 20
"""How far behind the end of a file its pages are given back; by then the disk has them."""
_SYNC_FILE_RANGE_WRITE = 2
_SYNC_FILE_RANGE = getattr(ctypes.CDLL(None), "sync_file_range", None)  # Linux only; elsewhere fsync does it all
_HAS_FADVISE = hasattr(os, "posix_fadvise")


class HashingFile:
    """A file open for writing that knows its length and sha256 at every moment."""

    def __init__(self, file: io.FileIO) -> None:
        self._file = file
        self._sha256 = hashlib.sha256()
        self._num_bytes_sent = self._num_bytes_dropped = 0
        self.num_bytes = 0
        self.closed = False

    def write(self, *parts: bytes | memoryview) -> None:
        """Append ``parts`` in one go; straight to the kernel, since a buffer in between would only copy them again."""
        descriptor, num_bytes = self._file.fileno(), sum(map(len, parts))
        num_written = os.writev(descriptor, parts)
        if num_written < num_bytes:  # the disk is about to be full, or a signal came
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
        """Wait until all is on the disk."""
        os.fsync(self._file.fileno())
        self._drop_pages(self._num_bytes_sent)

    def tell(self) -> int:
        """Return the position, which is always the end."""
        return self.num_bytes

    def flush(self) -> None:
        """Do nothing: what counts is the commit at the end. Arrow asks for it."""

    def close(self) -> None:
        """Do nothing: whoever opened the file closes it. Arrow asks for it."""

    @property
    def sha256(self) -> str:
        """Hexadecimal digest of everything written so far."""
        return self._sha256.hexdigest()

    def _drop_pages(self, end: int) -> None:
        """Give the memory of what lies before ``end`` back to the page cache: the next pages then cost next to nothing.

        A fresh page can cost ten times as much as one that was used just now, above all in a virtual machine, and
        recordings that will be read again have more use for the memory than a tar that has just been written.
        """
        if end > self._num_bytes_dropped and _HAS_FADVISE:
            num_bytes = end - self._num_bytes_dropped
            os.posix_fadvise(self._file.fileno(), self._num_bytes_dropped, num_bytes, os.POSIX_FADV_DONTNEED)
            self._num_bytes_dropped = end


def ignore_step(_step: str) -> None:
    """Do nothing: the default observer of commit steps."""


@contextmanager
def atomic_file(path: Path, *, on_step: Callable[[str], None] = ignore_step) -> Iterator[HashingFile]:
    """Write a file that appears under its name only when it is whole and on the disk.

    Args:
        path: Final name; its folder must exist. An existing file is replaced in one step.
        on_step: Called with the name of each commit step when it is over: ``written``, ``synced``, ``renamed``,
            ``committed``. Crash tests hang on here.

    Raises:
        EnvironmentFault: The disk is full, failing or not writable; names the path.
    """
    temporary = path.with_name(f"{path.name}.tmp.{os.getpid()}")
    try:
        with temporary.open("wb", buffering=0) as file:
            hashing = HashingFile(file)
            yield hashing
            on_step("written")
            hashing.sync()
        on_step("synced")
        temporary.replace(path)
        on_step("renamed")
        sync_folder(path.parent)
        on_step("committed")
    except OSError as error:
        _discard(temporary)
        raise as_environment_fault(error, path) from error
    except BaseException:
        _discard(temporary)
        raise


def _discard(path: Path) -> None:
    with suppress(OSError):  # a filesystem that is read-only refuses to remove even what is not there
        path.unlink()


def _start_writeback(descriptor: int, offset: int, num_bytes: int) -> None:
    """Let the disk begin to write this range while the next one is made, so that the fsync at the end is short."""
    if _SYNC_FILE_RANGE is not None:
        _SYNC_FILE_RANGE(descriptor, ctypes.c_int64(offset), ctypes.c_int64(num_bytes), _SYNC_FILE_RANGE_WRITE)


def sync_folder(folder: Path) -> None:
    """Make renames inside ``folder`` survive a power loss."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Any, *, on_step: Callable[[str], None] = ignore_step) -> str:
    """Write ``value`` as stable, readable JSON, atomically; return the sha256 of the file."""
    with atomic_file(path, on_step=on_step) as file:
        file.write(json_bytes(value))
    return file.sha256


def json_bytes(value: Any) -> bytes:
    """Return the one way in which this package writes ``value`` as readable JSON."""
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False).encode() + b"\n"


def sha256_of_file(path: Path) -> str:
    """Return the hexadecimal sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_environment_error(error: BaseException) -> bool:
    """Tell faults of the machine (disk full, lost mount, out of memory) from faults of one input file."""
    if isinstance(error, OSError):
        return error.errno is not None and error.errno not in _PATH_ERRNOS
    return isinstance(error, MemoryError)


def as_environment_fault(error: OSError, path: Path) -> EnvironmentFault:
    """Say in one line what the machine refused, and what to do."""
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
    """Return a value as JSON can hold it: None for a float that is not finite."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
