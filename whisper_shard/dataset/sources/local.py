"""Shards in a local folder, read at an offset."""

import os
from collections import OrderedDict
from typing import Protocol

from whisper_shard.dataset.index import Dataset
from whisper_shard.errors import DatasetError, EnvironmentFault

_OPEN_SHARDS = 128  # file descriptors a source keeps


class Source(Protocol):
    """Fetches bytes of a dataset's shards; made in the process that uses it."""

    def read(self, shard: int, offset: int, num_bytes: int) -> bytes:
        """Return exactly ``num_bytes`` from ``offset``.

        Raises:
            DatasetError: The shard is missing or shorter than that.
            EnvironmentFault: The machine cannot read.
        """
        ...

    def close(self) -> None:
        """Give back files and connections."""
        ...


class LocalSource:
    """Shards in a folder, read with pread: a shard that is cut while in use gives an error, not a bus error."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._descriptors: OrderedDict[int, int] = OrderedDict()

    def read(self, shard: int, offset: int, num_bytes: int) -> bytes:
        """Return exactly ``num_bytes`` from ``offset``; see `Source`."""
        try:
            data = os.pread(self._descriptor(shard), num_bytes, offset)
        except OSError as error:
            path = self._dataset.shard_path(shard)
            raise EnvironmentFault(
                f"{path}: cannot read: {error.strerror}; check the disk, then run the same command again"
            ) from error
        if len(data) != num_bytes:
            raise DatasetError(
                f"{self._dataset.shard_path(shard)}: ends {num_bytes - len(data)} bytes too early at byte "
                f"{offset + len(data)}; restore the shard or prepare the dataset again"
            )
        return data

    def close(self) -> None:
        """Close all files."""
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])

    def _descriptor(self, shard: int) -> int:
        if shard in self._descriptors:
            self._descriptors.move_to_end(shard)
            return self._descriptors[shard]
        path = self._dataset.shard_path(shard)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise DatasetError(f"{path}: shard is missing; restore it or prepare the dataset again") from error
        expected, found = self._dataset.shards[shard].num_bytes, os.fstat(descriptor).st_size
        if found != expected:
            os.close(descriptor)
            raise DatasetError(f"{path}: has {found} bytes, dataset.json says {expected}; restore the shard")
        if len(self._descriptors) >= _OPEN_SHARDS:
            os.close(self._descriptors.popitem(last=False)[1])
        self._descriptors[shard] = descriptor
        return descriptor
