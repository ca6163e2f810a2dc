"""One shard is one task: a worker decodes, writes and commits it alone; no audio crosses a process border."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from whisper_shard.audio.decoders import Recording, load_decoders
from whisper_shard.audio.members import ENCODERS
from whisper_shard.audio.samples import to_int16
from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.dataset.description import ShardInfo
from whisper_shard.dataset.shard import ShardWriter
from whisper_shard.errors import EnvironmentFault
from whisper_shard.prepare.events import StepObserver, named_steps
from whisper_shard.prepare.manifests.rows import as_rows
from whisper_shard.prepare.pipeline import Pipeline, build_pipeline, prepare_row
from whisper_shard.prepare.plan import read_shard_rows
from whisper_shard.prepare.receipts import RowOutcome, describe_reject, stat_source, write_receipt
from whisper_shard.prepare.waveform import prepare_waveform
from whisper_shard.prepare.workers.heartbeat import Marker, open_marker
from whisper_shard.storage.atomic import atomic_file, ignore_step
from whisper_shard.utterance import SAMPLE_RATE, ManifestRow, Rejection, Utterance

Verdicts = Mapping[str, tuple[str, str]]
"""Paths that must not be decoded again, with reason and detail: they have brought down a worker twice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A unit of work for one worker: a shard to write, or rows to look at."""

    number: int
    """As the main process counts tasks."""
    config: PrepareConfig
    """Knobs."""
    rows: Path | pa.Table
    """Arrow file of the split's plan, of which `shard` says which batch; or the rows themselves."""
    corpus: Path
    """Folder against which the manifest's paths are resolved."""
    board: Path
    """Folder of the workers' markers."""
    split: Path = Path()
    """Folder of the dataset."""
    shard: int = 0
    """Number of the shard in the plan."""
    receipt: Path = Path()
    """Where its receipt goes."""
    plan: str = ""
    """Fingerprint of the plan."""
    verdicts: Verdicts = field(default_factory=dict)
    """Recordings already judged."""
    is_retry: bool = False
    """Workers have died before: get all ready that a recording might have to wait for, so that its time is its own."""
    on_step: StepObserver = ignore_step
    """Told of commit steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardResult:
    """A shard that is committed."""

    number: int
    """Of the task."""
    num_utterances: int
    """Rows kept."""
    num_rejects: int
    """Rows not kept."""
    seconds_in: float
    """Audio decoded."""
    seconds_kept: float
    """Audio kept."""
    reasons: Mapping[str, int]
    """Rejects by reason."""
    examples: Mapping[str, str]
    """For each reason, one of its rows in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowProbe:
    """What preparing one row would give."""

    row: int
    """Position in the manifest."""
    source: str
    """The audio path as the manifest gives it."""
    reason: str | None
    """Why it would be rejected, or None."""
    detail: str = ""
    """The values behind the reason."""
    seconds: float = 0.0
    """Length after trimming."""
    num_bytes: Mapping[str, int]
    """Length of the audio member with each codec; 0 where rejected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """Rows that were looked at."""

    number: int
    """Of the task."""
    probes: tuple[RowProbe, ...]
    """One a row."""


def write_shard(task: Task) -> ShardResult:
    """Prepare the rows of one shard, commit the tar, then its receipt.

    Raises:
        EnvironmentFault: The machine failed: disk full, I/O error, out of memory.
    """
    try:
        return _write_shard(task)
    except MemoryError as error:
        raise _out_of_memory(task.config) from error


def probe_rows(task: Task) -> ProbeResult:
    """Prepare rows and keep nothing but the sizes."""
    pipeline, marker = _begin(task)
    probes = []
    for row, fault in as_rows(rows_of(task), folder=task.corpus):
        outcome = _decide(row, fault, pipeline, marker, task.verdicts)
        marker.end_row(seconds_in=0, seconds_kept=0, is_rejected=isinstance(outcome, Rejection))
        probes.append(_probe(row, outcome))
    return ProbeResult(number=task.number, probes=tuple(probes))


def _begin(task: Task) -> tuple[Pipeline, Marker]:
    _warm_up(task.config.trim_db)
    if task.is_retry:
        load_decoders()
    marker = open_marker(task.board)
    marker.begin_task(task.number)
    return build_pipeline(task.config), marker


@cache
def _warm_up(trim_db: float) -> None:
    """Import what the first recording would otherwise import on its own time: librosa takes a second."""
    recording = Recording(waveform=np.ones(SAMPLE_RATE, np.float32), sample_rate=SAMPLE_RATE)
    prepare_waveform(recording, trim_db=trim_db, peak=1.0)


def _write_shard(task: Task) -> ShardResult:
    pipeline, marker = _begin(task)
    name = f"shards/{task.shard:06d}.tar"
    path = task.split / name
    outcomes = []
    with atomic_file(path, on_step=named_steps("shard", task.on_step)) as file:
        writer = ShardWriter(file, shard=task.shard)
        for row, fault in as_rows(rows_of(task), folder=task.corpus):
            outcomes.append(_write_row(row, fault, task, writer=writer, pipeline=pipeline, marker=marker))
        writer.close()
    info = ShardInfo(name=name, num_bytes=file.num_bytes, sha256=file.sha256, num_utterances=len(writer.rows))
    if not writer.rows:
        path.unlink()
        info = replace(info, num_bytes=0)
    limits = run_limits(task.config)
    write_receipt(
        task.receipt,
        plan=task.plan,
        info=info,
        limits=limits,
        outcomes=outcomes,
        index_rows=writer.rows,
        on_step=task.on_step,
    )
    return _summarize(task, outcomes, writer)


def run_limits(config: PrepareConfig) -> dict[str, float]:
    """Return the knobs that bound a decoder."""
    return {
        "decode_timeout_seconds": float(config.decode_timeout_seconds),
        "worker_memory_mb": float(config.worker_memory_mb),
    }


def _write_row(
    row: ManifestRow, fault: Rejection | None, task: Task, *, writer: ShardWriter, pipeline: Pipeline, marker: Marker
) -> RowOutcome:
    num_bytes, mtime_ns = stat_source(row.path)
    outcome = _decide(row, fault, pipeline, marker, task.verdicts)
    make_outcome = partial(RowOutcome, row=row.row, source=row.source, num_bytes=num_bytes, mtime_ns=mtime_ns)
    if isinstance(outcome, Rejection):
        marker.end_row(seconds_in=outcome.seconds, seconds_kept=0.0, is_rejected=True)
        return make_outcome(seconds=round(outcome.seconds, 3), reason=outcome.reason, detail=outcome.detail)
    # A levelled waveform keeps to [-1, 1], is a copy of whatever the decoder gave, and is not needed after this line.
    is_levelled = task.config.peak > 0
    samples = to_int16(outcome.waveform, overwrite=is_levelled, is_within=is_levelled)
    codec = task.config.codec
    writer.add(
        key=outcome.key,
        audio=ENCODERS[codec](samples),
        suffix=codec,
        num_samples=len(samples),
        record=_as_record(outcome),
    )
    marker.end_row(seconds_in=outcome.recording_seconds, seconds_kept=outcome.seconds, is_rejected=False)
    return make_outcome(seconds=round(outcome.recording_seconds, 3), reason=None, detail="")


def _decide(
    row: ManifestRow, fault: Rejection | None, pipeline: Pipeline, marker: Marker, verdicts: Verdicts
) -> Utterance | Rejection:
    if fault is not None:
        return fault
    if row.path in verdicts:
        return row.reject(*verdicts[row.path])
    marker.begin_row(row.row)
    try:
        return prepare_row(row, pipeline)
    except OSError as error:
        raise EnvironmentFault(
            f"{row.path}: cannot read row {row.row}: {error.strerror or error}; "
            "fix this, then run the same command again"
        ) from error


def _as_record(utterance: Utterance) -> dict[str, object]:
    row = utterance.row
    own = {
        "text": utterance.text,
        "transcript": row.transcript,
        "seconds": utterance.seconds,
        "source": row.source,
        "row": row.row,
    }
    known = {"language": row.language, "speaker": row.speaker, "task": row.task}
    return {
        **_rename_reserved(row.extra, {*own, *known}),
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


def _probe(row: ManifestRow, outcome: Utterance | Rejection) -> RowProbe:
    if isinstance(outcome, Rejection):
        nothing = dict.fromkeys(ENCODERS, 0)
        return RowProbe(row=row.row, source=row.source, reason=outcome.reason, detail=outcome.detail, num_bytes=nothing)
    samples = to_int16(outcome.waveform)
    num_bytes = {name: len(encode(samples)) for name, encode in ENCODERS.items()}
    return RowProbe(row=row.row, source=row.source, reason=None, seconds=outcome.seconds, num_bytes=num_bytes)


def rows_of(task: Task) -> pa.Table:
    """Return the manifest rows a task is about."""
    if isinstance(task.rows, pa.Table):
        return task.rows
    return read_shard_rows(task.rows, task.shard)


def _summarize(task: Task, outcomes: list[RowOutcome], writer: ShardWriter) -> ShardResult:
    reasons, examples = Counter[str](), dict[str, str]()
    for outcome in outcomes:
        if outcome.reason is not None:
            reasons[outcome.reason] += 1
            examples.setdefault(
                outcome.reason, describe_reject(outcome.row, task.corpus / outcome.source, outcome.detail)
            )
    return ShardResult(
        number=task.number,
        num_utterances=len(writer.rows),
        num_rejects=sum(reasons.values()),
        seconds_in=sum(outcome.seconds for outcome in outcomes),
        seconds_kept=sum(row.num_samples for row in writer.rows) / SAMPLE_RATE,
        reasons=reasons,
        examples=examples,
    )


def _out_of_memory(config: PrepareConfig) -> EnvironmentFault:
    return EnvironmentFault(
        f"a worker needs more than {config.worker_memory_mb} MB outside of any decoder; raise --worker-memory-mb "
        "or lower --shard-mb, then run the same command again"
    )
