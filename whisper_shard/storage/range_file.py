"""An object read like a file: from any place, a block at a time."""

import io
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from whisper_shard.errors import EnvironmentFault
from whisper_shard.storage.object_store import ObjectChanged, ObjectInfo, ObjectStore

BLOCK_BYTES = 4 << 20
"""Bytes of a request, which are kept until others are asked for."""


class RangeFile(io.RawIOBase):
    """A file that is an object, all of one version. For readers that go through it in long stretches."""

    def __init__(
        self,
        info: ObjectInfo,
        store: ObjectStore,
        *,
        pause: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        """Open it, without a request.

        Args:
            info: The object.
            store: Access to it.
            pause: Entered while a request is under way.
        """
        self._info, self._store, self._pause = info, store, pause
        self._position = self._start = 0
        self._block = memoryview(b"")

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Change the position; nothing is read."""
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._info.num_bytes}[whence]
        self._position = max(0, origin + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer as far as the block goes, or the next one.

        Raises:
            EnvironmentFault: The network fails, or the object was removed or replaced.
            ConfigError: Bucket, credentials or endpoint are wrong.
        """
        target = memoryview(buffer).cast("B")
        if not len(target) or self._position >= self._info.num_bytes:
            return 0
        if not self._start <= self._position < self._start + len(self._block):
            self._read_block(self._position)
        found = self._block[self._position - self._start :][: len(target)]
        target[: len(found)] = found
        self._position += len(found)
        return len(found)

    def _read_block(self, start: int) -> None:
        location, num_bytes = self._info.location, min(BLOCK_BYTES, self._info.num_bytes - start)
        try:
            with self._pause():
                piece = self._store.get_range(location, start, num_bytes, etag=self._info.etag)
        except (FileNotFoundError, ObjectChanged) as error:
            raise EnvironmentFault(
                f"{location}: was removed or replaced while it was read; run the same command again"
            ) from error
        self._start, self._block = start, memoryview(piece.data)
