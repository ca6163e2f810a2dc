"""Rows are prepared only to see what becomes of them: before there is a plan, and where a recording is suspected."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from whisper_shard.audio.members import ENCODERS
from whisper_shard.audio.samples import to_int16
from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.prepare.cut import CutRow
from whisper_shard.prepare.rows import PreparedRow, finish_row, prepare_rows
from whisper_shard.prepare.task import FinishedRow, RowsTask, ShardTask
from whisper_shard.utterance import SAMPLE_RATE, Rejection, Utterance

PROBE_SECONDS = 60.0
"""How much of a recording that is cut is prepared where only its size is asked for."""


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
    finished: FinishedRow | None = None
    """What it has become, if that was asked for; None: it is prepared again, since it is cut."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """Rows that were prepared without writing anything."""

    number: int
    """Number of the task."""
    probes: tuple[RowProbe, ...]
    """One for each row."""


def probe_rows(task: RowsTask | ShardTask) -> ProbeResult:
    """Prepare rows and return sizes and rejections, and where it is asked for what they have become.

    Raises:
        EnvironmentFault: The machine failed: I/O error.
    """
    return ProbeResult(number=task.number, probes=tuple(_probe_each(task)))


def _probe_each(task: RowsTask | ShardTask) -> Iterator[RowProbe]:
    codecs = task.codecs if isinstance(task, RowsTask) else ()
    for row, results in groupby(prepare_rows(task, max_seconds=PROBE_SECONDS), key=lambda found: found.row.row):
        prepared = list(results)
        yield _probe(row, prepared, codecs, task)


def _probe(row: int, prepared: Sequence[PreparedRow], codecs: Sequence[str], task: RowsTask | ShardTask) -> RowProbe:
    is_cut = any(isinstance(one.result, CutRow) for one in prepared)
    if isinstance(task, RowsTask) and task.is_kept and not is_cut:
        return _finish_and_probe(row, prepared, task.config)
    return _measure(row, prepared, codecs)


def _finish_and_probe(row: int, prepared: Sequence[PreparedRow], config: PrepareConfig) -> RowProbe:
    """Return what a row that is not cut has become, and the size of that: it is encoded once."""
    finished = finish_row(row, prepared, config)
    (only,) = prepared
    return RowProbe(
        row=row,
        rejection=only.result if isinstance(only.result, Rejection) else None,
        seconds=sum(one.num_samples for one in finished.utterances) / SAMPLE_RATE,
        num_bytes={config.codec: sum(len(one.audio) for one in finished.utterances)},
        finished=finished,
    )


def _measure(row: int, prepared: Sequence[PreparedRow], codecs: Sequence[str]) -> RowProbe:
    """Return the sum over the results of a row; of a recording that was cut, the whole is estimated from its begin."""
    num_bytes, seconds, rejection = dict.fromkeys(codecs, 0.0), 0.0, None
    for result in (one.result for one in prepared):
        if isinstance(result, Utterance):
            samples = to_int16(result.waveform)
            num_bytes = {name: size + len(ENCODERS[name](samples)) for name, size in num_bytes.items()}
            seconds += result.seconds
        elif isinstance(result, CutRow):
            num_bytes = {name: size / result.share for name, size in num_bytes.items()}
            seconds, rejection = seconds / result.share, result.rejection or rejection
        else:
            rejection = result
    return RowProbe(
        row=row,
        rejection=None if seconds else rejection,
        seconds=seconds,
        num_bytes={name: round(size) for name, size in num_bytes.items()},
    )
