"""Lets plain WebDataset read tars in object storage: ``webdataset.WebDataset("s3://bucket/{000000..000099}.tar")``."""

import io
from collections.abc import Generator
from functools import partial
from typing import BinaryIO

from webdataset.gopen import gopen_schemes

from whisper_shard.errors import ConfigError
from whisper_shard.storage.location import SCHEMES, parse_location
from whisper_shard.storage.object_store import ObjectStore
from whisper_shard.storage.stores import StorageConfig

_LEFT_ALONE = "https"  # WebDataset reads it by itself, with queries too


def register_gopen(storage: StorageConfig | None = None) -> None:
    """Let WebDataset open URLs that begin with ``s3://``, ``gs://`` or ``az://`` through this package.

    A tar is read in pieces of 16 MB, two ahead, all of one version; what breaks off is fetched again from where it
    broke. In loader processes that are not forked, call it there too (``worker_init_fn``); forked ones inherit it, but
    must be forked before this process reads from object storage itself.

    Args:
        storage: How object storage is reached; None is as the environment says.
    """
    for scheme in SCHEMES.keys() - {_LEFT_ALONE}:
        gopen_schemes[scheme] = partial(_open, ObjectStore(storage or StorageConfig()))


def _open(store: ObjectStore, url: str, mode: str = "rb", bufsize: int = 8192, **_options: object) -> BinaryIO:
    """Open a URL as WebDataset asks for it; ``bufsize`` and further options are meant for other schemes."""
    if mode != "rb":
        raise ConfigError(f"{url}: can only be read here; write to a local file, and upload it")
    return io.BufferedReader(_PieceReader(store.stream(parse_location(url))), max(bufsize, 1 << 16))


class _PieceReader(io.RawIOBase):
    """A file without a position, made of pieces."""

    def __init__(self, pieces: Generator[bytes | memoryview, None, None]) -> None:
        self._pieces = pieces
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if not self._rest:
            self._rest = memoryview(next(self._pieces, b""))
        num_bytes = min(len(buffer), len(self._rest))
        buffer[:num_bytes] = self._rest[:num_bytes]
        self._rest = self._rest[num_bytes:]
        return num_bytes

    def close(self) -> None:
        self._pieces.close()
        super().close()
