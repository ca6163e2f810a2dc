"""One shard is one task: a worker decodes, sorts, writes and commits it alone; no audio crosses a process border.

The utterances of a shard are stored by length, so that those which a training step reads together, being of about the
same length, lie together. A worker therefore holds a whole shard in memory, already encoded, before it writes it.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import groupby
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from whisper_shard.audio.ffmpeg import load_ffmpeg
from whisper_shard.audio.members import ENCODERS
from whisper_shard.audio.recording import Recording
from whisper_shard.audio.samples import to_int16
from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.errors import EnvironmentFault
from whisper_shard.manifests.rows import as_rows
from whisper_shard.prepare.cut import CutRow, prepare_results
from whisper_shard.prepare.encode import EncodedUtterance, by_length, encode_utterance, write_tar
from whisper_shard.prepare.files import RecordingFiles
from whisper_shard.prepare.pipeline import Pipeline, build_pipeline
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
from whisper_shard.utterance import SAMPLE_RATE, ManifestRow, Rejection, Utterance

PROBE_SECONDS = 60.0
"""How much of a recording that is cut is prepared where only its size is asked for."""


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
    """Length of the audio member with each codec that was asked for; 0 where rejected."""


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
    outcomes, encoded = list[RowOutcome](), list[EncodedUtterance]()
    for prepared in _prepare_rows(task):
        outcomes += _as_outcomes(prepared)
        if isinstance(prepared.result, Utterance):
            encoded.append(encode_utterance(prepared.result, task.config))
    encoded.sort(key=by_length)
    info, index_rows = write_tar(task.shard, encoded, suffix=task.config.codec)
    if encoded:
        output.upload(task.shard.tar)
    # The tar is safely in its place before its receipt exists. A kill in between costs this shard's work, nothing else.
    times = [utterance.times for utterance in encoded] if task.config.segment != "none" else []
    index = index_columns(index_rows, [utterance.quality for utterance in encoded], times)
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
    prepared = _prepare_rows(task, max_seconds=PROBE_SECONDS)
    codecs = task.codecs if isinstance(task, RowsTask) else ()
    rows = groupby(prepared, key=lambda found: found.row.row)
    probes = tuple(_probe(row, results, codecs) for row, results in rows)
    return ProbeResult(number=task.number, probes=probes)


@dataclass(frozen=True, slots=True, kw_only=True)
class _PreparedRow:
    """A manifest row, the file of its recording before it was read, and a result."""

    row: ManifestRow
    num_bytes: int
    mtime_ns: int
    result: Utterance | Rejection | CutRow
    is_part: bool = False
    """Whether the result is an utterance of a recording that is cut, which further results follow."""

    @property
    def seconds(self) -> float:
        """Length of the audio in it that no other result counts, as far as it is known."""
        match self.result:
            case Utterance():
                return self.result.recording_seconds
            case CutRow():
                return self.result.rest_seconds
        return self.result.seconds

    @property
    def is_rejected(self) -> bool:
        """Whether it is a rejection, or holds one."""
        result = self.result.rejection if isinstance(self.result, CutRow) else self.result
        return isinstance(result, Rejection)


def _prepare_rows(task: RowsTask | ShardTask, *, max_seconds: float = math.inf) -> Iterator[_PreparedRow]:
    """Yield the rows of a task, prepared one after the other, with a heartbeat before and after each."""
    _warm_up(task.config.trim_db)
    if task.is_retry:
        load_ffmpeg()
    heartbeat = open_heartbeat(task.heartbeats)
    files = RecordingFiles(task.store, pause=heartbeat.paused)
    pipeline = build_pipeline(task.config, open_file=files.open)
    heartbeat.begin_task(task.number)
    rows = ((row, _needed_fault(fault, pipeline)) for row, fault in as_rows(task.read_rows(), folder=task.corpus))
    # The state is that before decoding, so that a recording that is replaced meanwhile is noticed by the next run.
    for row, fault, (num_bytes, mtime_ns) in files.walk(rows, skip=task.quarantined):
        rejection = fault
        if rejection is None and (known := task.quarantined.get(row.recording)) is not None:
            rejection = row.reject(known.reason, known.detail)
        results = (
            iter([rejection])
            if rejection
            else _naming_the_row(row, prepare_results(row, pipeline, max_seconds=max_seconds))
        )
        is_cut = rejection is None and pipeline.is_cut(row)
        if rejection is None:
            heartbeat.begin_row(row.row)
        for result in results:
            is_part = is_cut and not isinstance(result, CutRow)
            prepared = _PreparedRow(row=row, num_bytes=num_bytes, mtime_ns=mtime_ns, result=result, is_part=is_part)
            yield prepared
            heartbeat.end_row(
                seconds_in=prepared.seconds,
                seconds_kept=result.seconds if isinstance(result, Utterance) else 0.0,
                is_rejected=prepared.is_rejected,
                is_over=not is_part,
            )
            if is_part:  # the time limit is for each utterance, since a recording may have any length
                heartbeat.begin_row(row.row)
    pipeline.reader.close()


def _needed_fault(fault: Rejection | None, pipeline: Pipeline) -> Rejection | None:
    """Return the fault of a row, unless it is that there is no text and it need not have one."""
    return None if fault and fault.reason == "missing_transcript" and pipeline.cutter else fault


@cache
def _warm_up(trim_db: float) -> None:
    """Import and initialize what the first recording would otherwise pay for in its own time."""
    recording = Recording(waveform=np.ones(SAMPLE_RATE, np.float32), sample_rate=SAMPLE_RATE)
    waveform, _ = resample_and_trim(recording, trim_db=trim_db)
    measure_quality(recording, waveform, num_chars=1)


def _naming_the_row(
    row: ManifestRow, results: Iterator[Utterance | Rejection | CutRow]
) -> Iterator[Utterance | Rejection | CutRow]:
    """Yield the results; a fault of the machine becomes an error that names the row."""
    try:
        yield from results
    except OSError as error:
        raise EnvironmentFault(
            f"{row.path}: cannot read row {row.row}: {error.strerror or error}; "
            "fix this, then run the same command again"
        ) from error


def _as_outcomes(prepared: _PreparedRow) -> Iterator[RowOutcome]:
    """Yield what is noted of a result: the utterances of a recording that was cut are counted at its end."""
    result = prepared.result
    rejection = result.rejection if isinstance(result, CutRow) else result if isinstance(result, Rejection) else None
    if rejection is not None:
        yield _as_outcome(prepared, rejection.seconds, rejection=rejection)
    if isinstance(result, CutRow) and result.num_kept:
        yield _as_outcome(prepared, result.kept_seconds + result.rest_seconds, num_utterances=result.num_kept)
    elif isinstance(result, Utterance) and not prepared.is_part:
        yield _as_outcome(prepared, prepared.seconds, num_utterances=1)


def _as_outcome(
    prepared: _PreparedRow, seconds: float, *, num_utterances: int = 0, rejection: Rejection | None = None
) -> RowOutcome:
    return RowOutcome(
        row=prepared.row.row,
        source=prepared.row.source,
        file=prepared.row.file,
        num_bytes=prepared.num_bytes,
        mtime_ns=prepared.mtime_ns,
        seconds=round(seconds, 3),
        reason=rejection.reason if rejection else None,
        detail=rejection.detail if rejection else "",
        num_utterances=num_utterances,
    )


def _probe(row: int, results: Iterable[_PreparedRow], codecs: Sequence[str]) -> RowProbe:
    """Return the sum over the results of a row; of a recording that was cut, the whole is estimated from its begin."""
    num_bytes, seconds, rejection = dict.fromkeys(codecs, 0.0), 0.0, None
    for prepared in results:
        result = prepared.result
        if isinstance(result, Utterance):
            samples = to_int16(result.waveform)
            num_bytes = {name: size + len(ENCODERS[name](samples)) for name, size in num_bytes.items()}
            seconds += result.seconds
        elif isinstance(result, CutRow):
            num_bytes = {name: size / result.share for name, size in num_bytes.items()}
            seconds, rejection = seconds / result.share, result.rejection or rejection
        else:
            rejection = result
    sizes = {name: round(size) for name, size in num_bytes.items()}
    return RowProbe(row=row, rejection=None if seconds else rejection, seconds=seconds, num_bytes=sizes)
