"""One shard is one task: a worker decodes, sorts, writes and commits it alone; no audio crosses a process border.

The utterances of a shard are stored by length, so that those which a training step reads together, being of about the
same length, lie together. A worker therefore holds a whole shard in memory, already encoded, before it writes it.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from whisper_shard.audio.ffmpeg import load_ffmpeg
from whisper_shard.audio.members import ENCODERS
from whisper_shard.audio.recording import Recording
from whisper_shard.audio.samples import to_int16
from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.dataset.description import ShardInfo
from whisper_shard.dataset.schema import IndexRow
from whisper_shard.dataset.shard import ShardWriter
from whisper_shard.errors import EnvironmentFault
from whisper_shard.manifests.rows import as_rows
from whisper_shard.prepare.duplicates import hash_samples
from whisper_shard.prepare.files import RecordingFiles
from whisper_shard.prepare.pipeline import Pipeline, build_pipeline, prepare_row
from whisper_shard.prepare.plan import ShardPlan
from whisper_shard.prepare.quality import measure_quality
from whisper_shard.prepare.receipts import (
    RowOutcome,
    ShardCounts,
    count_receipt,
    index_columns,
    make_receipt,
    write_receipt,
)
from whisper_shard.prepare.waveform import resample_and_trim
from whisper_shard.prepare.workers.heartbeat import open_heartbeat
from whisper_shard.storage.location import Location
from whisper_shard.storage.object_store import ObjectStore
from whisper_shard.utterance import SAMPLE_RATE, ManifestRow, Quality, Rejection, Utterance


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
        """Return the rows of the shard, in MANIFEST_SCHEMA."""
        return self.shard.read_rows()

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


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardResult:
    """A shard that is committed."""

    number: int
    """Number of the task."""
    counts: ShardCounts
    """Its sums."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowProbe:
    """What preparing one row would give."""

    row: int
    """Position in the manifest."""
    rejection: Rejection | None = None
    """Why it would be rejected, or None."""
    seconds: float = 0.0
    """Length after trimming; 0 where rejected."""
    num_bytes: Mapping[str, int] = field(default_factory=lambda: dict.fromkeys(ENCODERS, 0))
    """Length of the audio member with each codec; 0 where rejected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """Rows that were prepared without writing anything."""

    number: int
    """Number of the task."""
    probes: tuple[RowProbe, ...]
    """One for each row."""


def write_shard(task: ShardTask) -> ShardResult:
    """Prepare the rows of a shard, commit the tar, then its receipt.

    Raises:
        EnvironmentFault: The machine failed: disk full, I/O error, network.
        StateError: Another process writes into the same bucket.
        MemoryError: The shard and a recording together do not fit into the memory of a worker.
    """
    output = task.shard.split.output
    if task.is_retry:  # its worker may have died right after it had committed the shard
        output.remove(task.shard.receipt)
    outcomes, encoded = list[RowOutcome](), list[_EncodedUtterance]()
    for prepared in _prepare_rows(task):
        outcomes.append(_as_outcome(prepared))
        if isinstance(prepared.result, Utterance):
            encoded.append(_encode(prepared.result, task.config))
    encoded.sort(key=_by_length)
    info, index_rows = _write_tar(task.shard, encoded, suffix=task.config.codec)
    if encoded:
        output.upload(task.shard.tar)
    # The tar is safely in its place before its receipt exists. A kill in between costs this shard's work, nothing else.
    index = index_columns(index_rows, [utterance.quality for utterance in encoded])
    hashes = [utterance.audio_hash for utterance in encoded]
    receipt = make_receipt(task.shard, info, config=task.config, outcomes=outcomes, index=index, audio_hashes=hashes)
    write_receipt(task.shard, receipt)
    if output.remote:
        task.shard.tar.unlink(missing_ok=True)
    return ShardResult(number=task.number, counts=count_receipt(receipt, task.corpus))


def probe_rows(task: RowsTask | ShardTask) -> ProbeResult:
    """Prepare rows and return only sizes and rejections.

    Raises:
        EnvironmentFault: The machine failed: I/O error.
    """
    probes = tuple(_probe(prepared) for prepared in _prepare_rows(task))
    return ProbeResult(number=task.number, probes=probes)


@dataclass(frozen=True, slots=True, kw_only=True)
class _PreparedRow:
    """A manifest row, the file of its recording before it was read, and the result."""

    row: ManifestRow
    num_bytes: int
    mtime_ns: int
    result: Utterance | Rejection

    @property
    def seconds(self) -> float:
        """Length of the recording, as far as it is known."""
        return self.result.seconds if isinstance(self.result, Rejection) else self.result.recording_seconds


def _prepare_rows(task: RowsTask | ShardTask) -> Iterator[_PreparedRow]:
    """Yield the rows of a task, prepared one after the other, with a heartbeat before and after each."""
    _warm_up(task.config.trim_db)
    if task.is_retry:
        load_ffmpeg()
    heartbeat = open_heartbeat(task.heartbeats)
    files = RecordingFiles(task.store, pause=heartbeat.paused)
    pipeline = build_pipeline(task.config, open_file=files.open)
    heartbeat.begin_task(task.number)
    rows = as_rows(task.read_rows(), folder=task.corpus)
    # The state is that before decoding, so that a recording that is replaced meanwhile is noticed by the next run.
    for row, rejection, (num_bytes, mtime_ns) in files.walk(rows, skip=task.quarantined):
        if rejection is not None:
            result: Utterance | Rejection = rejection
        elif (known := task.quarantined.get(row.recording)) is not None:
            result = row.reject(known.reason, known.detail)
        else:
            heartbeat.begin_row(row.row)
            result = _prepare_row(row, pipeline)
        prepared = _PreparedRow(row=row, num_bytes=num_bytes, mtime_ns=mtime_ns, result=result)
        is_rejected = isinstance(result, Rejection)
        yield prepared
        heartbeat.end_row(
            seconds_in=prepared.seconds, seconds_kept=0.0 if is_rejected else result.seconds, is_rejected=is_rejected
        )
    pipeline.reader.close()


@cache
def _warm_up(trim_db: float) -> None:
    """Import and initialize what the first recording would otherwise pay for in its own time."""
    recording = Recording(waveform=np.ones(SAMPLE_RATE, np.float32), sample_rate=SAMPLE_RATE)
    waveform, _ = resample_and_trim(recording, trim_db=trim_db)
    measure_quality(recording, waveform, num_chars=1)


def _prepare_row(row: ManifestRow, pipeline: Pipeline) -> Utterance | Rejection:
    try:
        return prepare_row(row, pipeline)
    except OSError as error:
        raise EnvironmentFault(
            f"{row.path}: cannot read row {row.row}: {error.strerror or error}; "
            "fix this, then run the same command again"
        ) from error


def _write_tar(
    shard: ShardPlan, utterances: Sequence["_EncodedUtterance"], *, suffix: str
) -> tuple[ShardInfo, list[IndexRow]]:
    """Write the tar of a shard, or remove an old one if there are no utterances."""
    if not utterances:
        shard.split.output.remove(shard.tar)
        return ShardInfo(name=shard.name, num_bytes=0, sha256="", num_utterances=0), []
    with shard.split.output.writer.file(shard.tar) as file:
        writer = ShardWriter(file, shard=shard.number)
        for utterance in utterances:
            writer.add(
                key=utterance.key,
                audio=utterance.audio,
                suffix=suffix,
                num_samples=utterance.num_samples,
                record=utterance.record,
            )
        writer.close()
    info = ShardInfo(name=shard.name, num_bytes=file.num_bytes, sha256=file.sha256, num_utterances=len(utterances))
    return info, writer.rows


def _as_outcome(prepared: _PreparedRow) -> RowOutcome:
    rejection = prepared.result if isinstance(prepared.result, Rejection) else None
    return RowOutcome(
        row=prepared.row.row,
        source=prepared.row.source,
        file=prepared.row.file,
        num_bytes=prepared.num_bytes,
        mtime_ns=prepared.mtime_ns,
        seconds=round(prepared.seconds, 3),
        reason=rejection.reason if rejection else None,
        detail=rejection.detail if rejection else "",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _EncodedUtterance:
    """An utterance as it is written into a shard."""

    key: str
    audio: bytes
    num_samples: int
    row: int
    record: Mapping[str, object]
    quality: Quality | None
    audio_hash: str


def _by_length(utterance: _EncodedUtterance) -> tuple[int, int]:
    return utterance.num_samples, utterance.row


def _encode(utterance: Utterance, config: PrepareConfig) -> _EncodedUtterance:
    """Encode an utterance; its waveform is overwritten."""
    # Peak normalization returns a new array within [-1, 1], which may serve as scratch space and need not be clipped.
    is_normalized = config.peak > 0
    samples = to_int16(utterance.waveform, overwrite=is_normalized, is_within=is_normalized)
    return _EncodedUtterance(
        key=utterance.key,
        audio=ENCODERS[config.codec](samples),
        num_samples=len(samples),
        row=utterance.row.row,
        record=_as_record(utterance),
        quality=utterance.quality,
        audio_hash=hash_samples(samples),
    )


def _as_record(utterance: Utterance) -> dict[str, object]:
    row = utterance.row
    own: dict[str, object] = {
        "text": utterance.text,
        "transcript": row.transcript,
        "seconds": utterance.seconds,
        "source": row.source,
        "row": row.row,
    }
    known = {
        "language": row.language,
        "speaker": row.speaker,
        "task": row.task,
        "start_seconds": row.start_seconds,
        "end_seconds": row.end_seconds,
        "channel": row.channel,
    }
    extra = row.extra
    if utterance.phrases:
        extra = {name: value for name, value in extra.items() if name != "segments"}
        own["segments"] = [asdict(phrase) for phrase in utterance.phrases]
    return {
        **_rename_reserved(extra, {*own, *known}),
        **{name: value for name, value in known.items() if value is not None},
        **own,
    }


def _rename_reserved(extra: Mapping[str, object], reserved: set[str]) -> dict[str, object]:
    """Put ``manifest_`` before the names of manifest columns that mean something else in a record."""
    renamed = {}
    for name, value in extra.items():
        free = name
        while free in reserved or (free != name and free in extra):
            free = f"manifest_{free}"
        renamed[free] = value
    return renamed


def _probe(prepared: _PreparedRow) -> RowProbe:
    row, result = prepared.row, prepared.result
    if isinstance(result, Rejection):
        return RowProbe(row=row.row, rejection=result)
    samples = to_int16(result.waveform)
    num_bytes = {name: len(encode(samples)) for name, encode in ENCODERS.items()}
    return RowProbe(row=row.row, seconds=result.seconds, num_bytes=num_bytes)
