"""Shards in object storage, read by ranged GETs."""

import threading

from whisper_shard.dataset.description import DATASET_NAME
from whisper_shard.dataset.index import Dataset
from whisper_shard.dataset.sources.protocol import SourceCounts
from whisper_shard.errors import DatasetError
from whisper_shard.storage.object_store import ObjectChanged, ObjectStore


class ObjectStoreSource:
    """Shards in a bucket or behind https: one GET a read, more only where the network fails.

    A shard is the version that the first read has met: one that is replaced while it is in use is an error, never a
    mixture of both.
    """

    threads = 16
    ahead_bytes = 256 << 20

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._store = ObjectStore(dataset.storage)
        self._etags: dict[int, str | None] = {}
        self._lock = threading.Lock()
        self._counts = SourceCounts()

    @property
    def counts(self) -> SourceCounts:
        """Requests and bytes so far."""
        return self._counts

    def read(self, shard: int, offset: int, num_bytes: int) -> bytes | memoryview:
        """Return exactly ``num_bytes`` from ``offset``; see `Source`."""
        if not num_bytes:
            return b""
        location, known = self._dataset.shard_location(shard), self._etags.get(shard)
        try:
            piece = self._store.get_range(location, offset, num_bytes, etag=known)
            with self._lock:
                if self._etags.setdefault(shard, piece.info.etag) != piece.info.etag:  # two threads met two versions
                    raise ObjectChanged
                gets, total = self._counts.gets + piece.num_requests, self._counts.num_bytes + num_bytes
                self._counts = SourceCounts(gets=gets, num_bytes=total)
        except FileNotFoundError as error:
            raise DatasetError(f"{location}: shard is missing; restore it or prepare the dataset again") from error
        except ObjectChanged as error:
            raise DatasetError(
                f"{location}: was replaced while it was in use; run the same command again if this was meant"
            ) from error
        expected = self._dataset.shards[shard].num_bytes
        if piece.info.num_bytes != expected:
            raise DatasetError(
                f"{location}: has {piece.info.num_bytes} bytes, {DATASET_NAME} says {expected}; restore the shard"
            )
        if len(piece.data) != num_bytes:
            raise DatasetError(
                f"{location}: {len(piece.data)} bytes came from byte {offset} instead of {num_bytes}; restore the shard"
            )
        return piece.data

    def is_local(self, shard: int) -> bool:  # noqa: ARG002 - no shard is
        """Return False."""
        return False

    def advise(self, shard: int, offset: int, num_bytes: int) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing: connections are shared by all sources of the process."""
