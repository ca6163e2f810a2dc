"""First pass: a worker reads a tar from its first byte to its last, hashes it, and notes the utterances in it."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from whisper_shard.dataset.description import FileInfo, Foreign, ForeignDescription, LinkedShard, Totals
from whisper_shard.dataset.foreign import TarReader
from whisper_shard.dataset.index import Dataset
from whisper_shard.dataset.sources.open import open_source
from whisper_shard.dataset.sources.protocol import ByteReader
from whisper_shard.prepare.task import Task
from whisper_shard.prepare.workers.heartbeat import open_heartbeat
from whisper_shard.storage.location import Location
from whisper_shard.tars.find import TarInput, TextInput
from whisper_shard.tars.rows import found_table
from whisper_shard.tars.state import IndexFolder, write_table
from whisper_shard.utterance import ManifestRow

_NO_FILE = FileInfo(num_bytes=0, sha256="0" * 64)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanTask(Task):
    """A tar to read."""

    tar: TarInput
    """The tar."""
    texts: TextInput
    """Where its texts are."""
    output: IndexFolder
    """Where the result goes."""
    index: int
    """Position of the tar among all."""

    def recordings(self) -> Iterator[ManifestRow]:
        """Yield nothing: nothing is decoded."""
        return iter(())

    def alone(self, row: int, *, number: int) -> "ScanTask":
        """Never happens: nothing is decoded.

        Raises:
            LookupError: Always.
        """
        raise LookupError(f"row {row} of {self.tar.location} is not decoded by task {number}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanResult:
    """A tar that has been read."""

    number: int
    """Number of the task."""
    num_bytes: int
    """Its length."""


def scan_tar(task: ScanTask) -> ScanResult:
    """Read a tar and write the table of its utterances.

    Raises:
        DatasetError: It is not a tar as it should be; names the byte.
        ManifestError: A line of its manifest cannot be read.
        EnvironmentFault: The machine failed.
    """
    open_heartbeat(task.output.heartbeats).begin_task(task.number)
    texts = task.texts.open()
    with closing(open_tar(task.tar)) as source:
        reader = TarReader(
            lambda offset, num_bytes: source.read(0, offset, num_bytes),
            task.tar.num_bytes,
            name=str(task.tar.location),
        )
        for member in reader.members(keep=texts.keeps):
            texts.add(member)
    meta: dict[str, Any] = {"sha256": reader.sha256, "unread": dict(texts.unread)}
    rows = [replace(row, row=number) for number, row in enumerate(texts.rows())]
    write_table(task.output, task.output.tar(task.index), found_table(rows), meta)
    return ScanResult(number=task.number, num_bytes=task.tar.num_bytes)


def open_tar(tar: TarInput) -> ByteReader:
    """Open one tar through a source, as the only shard of a dataset that does not exist yet."""
    shard = LinkedShard(name=str(tar.location), num_bytes=tar.num_bytes, sha256="0" * 64, num_utterances=0)
    description = ForeignDescription(
        shards=(shard,),
        index=_NO_FILE,
        totals=Totals(num_utterances=0, num_samples=0),
        foreign=Foreign(texts="members", npy_sample_rate=16_000),
    )
    return open_source(Dataset(location=Location("file", "", "."), folder=Path(), description=description))
