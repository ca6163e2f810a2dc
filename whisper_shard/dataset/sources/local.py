"""Shards in a local folder, read at an offset."""

import io
import os
import stat
import threading
from collections import OrderedDict
from contextlib import suppress

from whisper_shard.dataset.index import Dataset
from whisper_shard.dataset.sources.protocol import SourceCounts
from whisper_shard.errors import DatasetError, EnvironmentFault

_OPEN_SHARDS = 128  # files a source keeps open


class LocalSource:
    """Shards in a folder, read with pread: a shard that is cut while in use gives an error, not a bus error."""

    threads = 2
    ahead_bytes = 128 << 20

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._files: OrderedDict[int, io.FileIO] = OrderedDict()
        self._lock = threading.Lock()
        self._counts = SourceCounts()

    @property
    def counts(self) -> SourceCounts:
        """Reads and bytes so far."""
        return self._counts

    def read(self, shard: int, offset: int, num_bytes: int) -> bytes:
        """Return exactly ``num_bytes`` from ``offset``; see `Source`."""
        try:
            data = os.pread(self._open(shard).fileno(), num_bytes, offset)
        except OSError as error:
            raise self._unreadable(shard, error) from error
        if len(data) != num_bytes:
            raise DatasetError(
                f"{self._dataset.shard_path(shard)}: ends {num_bytes - len(data)} bytes too early at byte "
                f"{offset + len(data)}; restore the shard or prepare the dataset again"
            )
        with self._lock:
            self._counts = SourceCounts(gets=self._counts.gets + 1, num_bytes=self._counts.num_bytes + num_bytes)
        return data

    def is_local(self, shard: int) -> bool:  # noqa: ARG002 - all shards are
        """Return True."""
        return True

    def advise(self, shard: int, offset: int, num_bytes: int) -> None:
        """Let the operating system read a stretch ahead; an error is left to `read`."""
        with suppress(OSError, DatasetError, EnvironmentFault):
            os.posix_fadvise(self._open(shard).fileno(), offset, num_bytes, os.POSIX_FADV_WILLNEED)

    def close(self) -> None:
        """Close all files."""
        with self._lock:
            self._files.clear()

    def _open(self, shard: int) -> io.FileIO:
        """Return the open file of a shard; one that is pushed out is closed when no thread reads from it any more."""
        with self._lock:
            if shard not in self._files:
                self._files[shard] = self._open_shard(shard)
                if len(self._files) > _OPEN_SHARDS:
                    self._files.popitem(last=False)
            self._files.move_to_end(shard)
            return self._files[shard]

    def _open_shard(self, shard: int) -> io.FileIO:
        path = self._dataset.shard_path(shard)
        try:
            if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for ever
                raise DatasetError(f"{path}: is not a regular file; restore the shard or prepare the dataset again")
            file = io.FileIO(path)
        except FileNotFoundError as error:
            raise DatasetError(f"{path}: shard is missing; restore it or prepare the dataset again") from error
        except OSError as error:
            raise self._unreadable(shard, error) from error
        expected, found = self._dataset.shards[shard].num_bytes, os.fstat(file.fileno()).st_size
        if found != expected:
            raise DatasetError(f"{path}: has {found} bytes, dataset.json says {expected}; restore the shard")
        return file

    def _unreadable(self, shard: int, error: OSError) -> EnvironmentFault:
        path = self._dataset.shard_path(shard)
        return EnvironmentFault(
            f"{path}: cannot read: {error.strerror}; check the disk, then run the same command again"
        )
