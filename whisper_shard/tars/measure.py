"""Second pass: a worker decodes utterances, to learn their exact lengths at 16 kHz and whether they can be used."""

from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, fields, replace
from typing import Annotated, get_args

import pyarrow as pa

from whisper_shard.audio.ffmpeg import load_ffmpeg
from whisper_shard.audio.foreign import foreign_decoders
from whisper_shard.dataset.schema import QUALITY_SCHEMA, Int32, Int64, OptionalText, Text
from whisper_shard.prepare.pipeline import build_pipeline, prepare_row
from whisper_shard.prepare.receipts import ShardCounts
from whisper_shard.prepare.task import Task
from whisper_shard.prepare.workers.heartbeat import open_heartbeat
from whisper_shard.tars.find import TarInput
from whisper_shard.tars.member_audio import MemberAudio, start_of
from whisper_shard.tars.rows import FoundRow, as_found_rows
from whisper_shard.tars.scan import open_tar
from whisper_shard.tars.state import IndexFolder, read_table, write_table
from whisper_shard.utterance import SAMPLE_RATE, ManifestRow, Quality, Rejection, Utterance

Seconds = Annotated[float, pa.float64()]
"""A column of seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredRow:
    """What became of an utterance that was found."""

    row: Int64
    """Position among all utterances of all tars."""
    seconds: Seconds
    """Length of its audio, as far as it is known."""
    key: Text = ""
    """Its key in the dataset; of rejected ones, this and the following fields are empty."""
    text: Text = ""
    """Normalized text."""
    num_samples: Int32 = 0
    """Length at 16 kHz."""
    audio_start: Int32 = 0
    """First sample in the audio of its member."""
    reason: OptionalText = None
    """Why it was rejected, or None."""
    detail: Text = ""
    """The values behind the reason."""
    quality: Quality | None = None
    """What was measured; None of rejected ones, and with ``--no-quality``."""

    def as_columns(self) -> dict[str, object]:
        """Return the values of the columns of MEASURED_SCHEMA."""
        own = {f.name: getattr(self, f.name) for f in _ROW_FIELDS}
        return own | (asdict(self.quality) if self.quality else {})


_ROW_FIELDS = [f for f in fields(MeasuredRow) if f.name != "quality"]
MEASURED_SCHEMA = pa.schema(
    [
        *(pa.field(f.name, get_args(f.type)[1], nullable=f.type == OptionalText) for f in _ROW_FIELDS),
        *(field.with_nullable(True) for field in QUALITY_SCHEMA),
    ]
)
"""The columns of a table of measured rows; those of the quality are null where it was not measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureTask(Task):
    """Some utterances of a tar."""

    tar: TarInput
    """The tar."""
    output: IndexFolder
    """Where the result goes."""
    index: int
    """Position of the tar among all."""
    first: int
    """Position, in the tar, of the first utterance of the task."""
    num_rows: int
    """Utterances of the task."""
    first_row: int
    """Number of the tar's first utterance among all utterances of all tars."""
    npy_sample_rate: int
    """Hz of npy members."""
    is_alone: bool = False
    """Whether the result is thrown away."""

    def read_rows(self) -> Iterator[FoundRow]:
        """Yield the utterances, numbered among all."""
        table, _ = read_table(self.output.tar(self.index))
        for row in as_found_rows(table.slice(self.first, self.num_rows)):
            yield replace(row, row=self.first_row + row.row)

    def recordings(self) -> Iterator[ManifestRow]:
        """Yield the utterances as rows of a manifest."""
        return (row.as_manifest_row(str(self.tar.location)) for row in self.read_rows())

    def alone(self, row: int, *, number: int) -> "MeasureTask":
        """Return a task for one of the utterances."""
        return replace(
            self, number=number, first=row - self.first_row, num_rows=1, is_alone=True, quarantined={}, is_retry=True
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureResult:
    """Utterances that have been decoded."""

    number: int
    """Number of the task."""
    counts: ShardCounts
    """Their sums."""


def measure_rows(task: MeasureTask) -> MeasureResult:
    """Decode the utterances of a task and write the table of results.

    Raises:
        DatasetError: The tar has changed.
        EnvironmentFault: The machine failed.
    """
    measured = list(_measure(task))
    table = pa.Table.from_pylist([row.as_columns() for row in measured], schema=MEASURED_SCHEMA)
    if not task.is_alone:
        write_table(task.output, task.output.measured(task.index, task.first), table, {})
    return MeasureResult(number=task.number, counts=count_measured(table, str(task.tar.location)))


def count_measured(table: pa.Table, tar: str) -> ShardCounts:
    """Return the sums over a table of results.

    Args:
        table: In MEASURED_SCHEMA.
        tar: Where the tar lies, for the examples.
    """
    rejects = [line for line in table.to_pylist() if line["reason"] is not None]
    return ShardCounts(
        num_rows=len(table),
        num_utterances=len(table) - len(rejects),
        rejects=Counter(line["reason"] for line in rejects),
        examples={line["reason"]: f"row {line['row']}, {tar}: {line['detail']}" for line in reversed(rejects)},
        seconds_in=sum(table["seconds"].to_pylist()),
        seconds_kept=sum(table["num_samples"].to_pylist()) / SAMPLE_RATE,
    )


def _measure(task: MeasureTask) -> Iterator[MeasuredRow]:
    """Yield the results one after the other, with a heartbeat before and after each."""
    if task.is_retry:
        load_ffmpeg()
    heartbeat, rows, tar = open_heartbeat(task.output.heartbeats), list(task.read_rows()), str(task.tar.location)
    heartbeat.begin_task(task.number)
    audio = MemberAudio(
        rows,
        open_tar(task.tar),
        tar=tar,
        decoders=foreign_decoders(task.npy_sample_rate),
        max_seconds=task.config.max_recording_seconds,
    )
    with closing(audio):
        pipeline = replace(build_pipeline(task.config), reader=audio)
        for found in rows:
            row = found.as_manifest_row(tar)
            known = task.quarantined.get(row.recording)
            if found.reason is not None:
                result: Utterance | Rejection = row.reject(found.reason, found.detail)
            elif known is not None:
                result = row.reject(known.reason, known.detail)
            else:
                heartbeat.begin_row(row.row)
                result = prepare_row(row, pipeline)
            yield (measured := _as_measured(result, found))
            heartbeat.end_row(
                seconds_in=measured.seconds,
                seconds_kept=measured.num_samples / SAMPLE_RATE,
                is_rejected=measured.reason is not None,
            )


def _as_measured(result: Utterance | Rejection, found: FoundRow) -> MeasuredRow:
    if isinstance(result, Rejection):
        return MeasuredRow(row=found.row, seconds=round(result.seconds, 3), reason=result.reason, detail=result.detail)
    return MeasuredRow(
        row=found.row,
        seconds=round(result.seconds, 3),
        key=result.key,
        text=result.text,
        num_samples=len(result.waveform),
        audio_start=start_of(found),
        quality=result.quality,
    )
