"""What every source of the bytes of shards can do."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceCounts:
    """What a source has fetched so far."""

    gets: int = 0
    """Requests."""
    num_bytes: int = 0
    """Bytes of all requests together."""


def add_counts(counts: Iterable[SourceCounts]) -> SourceCounts:
    """Return the sum of what several sources have fetched."""
    every = list(counts)
    return SourceCounts(gets=sum(c.gets for c in every), num_bytes=sum(c.num_bytes for c in every))


class ByteReader(Protocol):
    """Reads bytes of a dataset's shards."""

    def read(self, shard: int, offset: int, num_bytes: int) -> bytes | memoryview:
        """Return exactly ``num_bytes`` from ``offset``.

        Raises:
            DatasetError: The shard is missing, shorter than that, or another one than before.
            EnvironmentFault: The machine or the network cannot read.
            ConfigError: Bucket, credentials or endpoint are wrong.
        """
        ...

    def close(self) -> None:
        """Close files and connections."""
        ...


class Source(ByteReader, Protocol):
    """Fetches bytes of a dataset's shards; made in the process that uses it, and used by several of its threads."""

    threads: int
    """Reads at the same time that make reading faster."""
    ahead_bytes: int
    """Bytes to read ahead of their use, besides those of blocks already begun: more would not make it faster."""

    @property
    def counts(self) -> SourceCounts:
        """Requests and bytes so far."""
        ...

    def is_local(self, shard: int) -> bool:
        """Tell whether a shard is read from a file, which the operating system caches, and not from the network."""
        ...

    def advise(self, shard: int, offset: int, num_bytes: int) -> None:
        """Let the operating system read a stretch of a local shard ahead, without waiting for it."""
        ...
