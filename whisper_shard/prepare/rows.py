"""The rows of a task are prepared one after the other, with a heartbeat before and after each."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import groupby

import numpy as np

from whisper_shard.audio.ffmpeg import load_ffmpeg
from whisper_shard.audio.recording import Recording
from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.errors import EnvironmentFault
from whisper_shard.manifests.rows import as_rows
from whisper_shard.prepare.cut import CutRow, prepare_results
from whisper_shard.prepare.encode import EncodedUtterance, encode_utterance
from whisper_shard.prepare.files import RecordingFiles
from whisper_shard.prepare.pipeline import Pipeline, build_pipeline
from whisper_shard.prepare.quality import measure_quality
from whisper_shard.prepare.receipts import RowOutcome
from whisper_shard.prepare.task import FinishedRow, RowsTask, ShardTask
from whisper_shard.prepare.waveform import resample_and_trim
from whisper_shard.prepare.workers.heartbeat import open_heartbeat
from whisper_shard.utterance import SAMPLE_RATE, ManifestRow, Rejection, Utterance


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedRow:
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


def finish_rows(task: ShardTask) -> Iterator[FinishedRow]:
    """Yield the rows of a shard as they are written, without those that are finished already.

    Raises:
        EnvironmentFault: The machine failed: I/O error, network.
    """
    for row, results in groupby(prepare_rows(task), key=lambda found: found.row.row):
        yield finish_row(row, results, task.config)


def finish_row(row: int, results: Iterable[PreparedRow], config: PrepareConfig) -> FinishedRow:
    """Encode what a row has become; its waveforms are overwritten.

    Args:
        row: Position in the manifest.
        results: All that it has become.
        config: Settings.
    """
    outcomes, utterances = list[RowOutcome](), list[EncodedUtterance]()
    for prepared in results:
        outcomes += _as_outcomes(prepared)
        if isinstance(prepared.result, Utterance):
            utterances.append(encode_utterance(prepared.result, config))
    return FinishedRow(row=row, outcomes=tuple(outcomes), utterances=tuple(utterances))


def prepare_rows(task: RowsTask | ShardTask, *, max_seconds: float = math.inf) -> Iterator[PreparedRow]:
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
            prepared = PreparedRow(row=row, num_bytes=num_bytes, mtime_ns=mtime_ns, result=result, is_part=is_part)
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


def _as_outcomes(prepared: PreparedRow) -> Iterator[RowOutcome]:
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
    prepared: PreparedRow, seconds: float, *, num_utterances: int = 0, rejection: Rejection | None = None
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
