"""What workers are asked to do: rows to prepare, of a shard or only to see what becomes of them."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from whisper_shard.audio.members import ENCODERS
from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.manifests.rows import as_rows
from whisper_shard.prepare.encode import EncodedUtterance
from whisper_shard.prepare.plan import ShardPlan
from whisper_shard.prepare.receipts import RowOutcome
from whisper_shard.storage.location import Location
from whisper_shard.storage.object_store import ObjectStore
from whisper_shard.utterance import ManifestRow, Rejection


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedRow:
    """What a manifest row has become, ready to be written."""

    row: int
    """Position in the manifest."""
    outcomes: tuple[RowOutcome, ...]
    """What is noted of it."""
    utterances: tuple[EncodedUtterance, ...]
    """What is kept of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task(ABC):
    """Rows for one worker to prepare; one class for each kind of work."""

    number: int
    """As the main process counts tasks."""
    config: PrepareConfig
    """Settings."""
    quarantined: Mapping[str, Rejection] = field(default_factory=dict)
    """Recordings that must not be decoded again, by name."""
    is_retry: bool = False
    """Workers have died before: load every library first, so that no recording is charged for the time that takes."""

    @abstractmethod
    def recordings(self) -> Iterator[ManifestRow]:
        """Yield the rows, with the paths by which their recordings are quarantined."""

    @abstractmethod
    def alone(self, row: int, *, number: int) -> "Task":
        """Return a task for one of the rows, for which nothing is written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowsTask(Task):
    """Rows to prepare in order to see what becomes of them; nothing is written."""

    rows: pa.Table
    """In MANIFEST_SCHEMA."""
    corpus: Path | Location
    """Folder of the manifest, to which relative audio paths are relative."""
    heartbeats: Path
    """Folder of the workers' heartbeats."""
    store: ObjectStore = field(default_factory=ObjectStore)
    """Access to recordings in object storage."""
    codecs: Sequence[str] = tuple(ENCODERS)
    """Codecs with which the size of the utterances is wanted."""
    is_kept: bool = False
    """Whether the result holds what the rows have become, for the shards that they are in."""

    def read_rows(self) -> pa.Table:
        """Return the rows."""
        return self.rows

    def recordings(self) -> Iterator[ManifestRow]:
        """Yield the rows."""
        return (row for row, _ in as_rows(self.rows, folder=self.corpus))

    def alone(self, row: int, *, number: int) -> "RowsTask":
        """Return a task for one of the rows."""
        return replace(self, number=number, rows=self.rows.filter(pc.field("row") == row), is_retry=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardTask(Task):
    """A shard to write."""

    shard: ShardPlan
    """Its rows, and where it is written."""
    finished: tuple[FinishedRow, ...] = ()
    """Rows that have been prepared already; some may be of other shards."""

    @property
    def corpus(self) -> Path | Location:
        """Folder of the manifest, to which relative audio paths are relative."""
        return self.shard.split.corpus

    @property
    def heartbeats(self) -> Path:
        """Folder of the workers' heartbeats."""
        return self.shard.split.output.heartbeats

    @property
    def store(self) -> ObjectStore:
        """Access to recordings in object storage."""
        return self.shard.split.output.store

    def read_rows(self) -> pa.Table:
        """Return the rows of the shard that are not finished, in MANIFEST_SCHEMA."""
        rows = self.shard.read_rows()
        if not self.finished:
            return rows
        return rows.filter(~pc.field("row").isin([row.row for row in self.finished]))

    def recordings(self) -> Iterator[ManifestRow]:
        """Yield the rows of the shard."""
        return self._without_shard().recordings()

    def alone(self, row: int, *, number: int) -> RowsTask:
        """Return a task for one of the rows."""
        return self._without_shard().alone(row, number=number)

    def _without_shard(self) -> RowsTask:
        return RowsTask(
            number=self.number,
            config=self.config,
            rows=self.read_rows(),
            corpus=self.corpus,
            heartbeats=self.heartbeats,
            store=self.store,
        )
