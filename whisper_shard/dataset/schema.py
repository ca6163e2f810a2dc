"""The columns of index.parquet: one row per utterance.

`IndexRow` is the only list of columns: the Arrow schema, and the columns that a reader needs, follow from it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Annotated, NamedTuple, get_args

import pyarrow as pa

from whisper_shard.utterance import Quality

KEY_PATTERN = re.compile(r"[A-Za-z0-9_-]{1,90}")
"""No dot: WebDataset cuts a member's name at its first dot, and would merge ``a.b`` with ``a.c``."""
Int32 = Annotated[int, pa.int32()]
"""A column of 32-bit integers."""
Int64 = Annotated[int, pa.int64()]
"""A column of 64-bit integers."""
UInt32 = Annotated[int, pa.uint32()]
"""A column of unsigned 32-bit integers."""
Text = Annotated[str, pa.string()]
"""A column of strings."""
OptionalText = Annotated[str | None, pa.string()]
"""A column of strings that may be null."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexRow:
    """Where one utterance lies, and what one must know before reading it: a row of index.parquet."""

    shard: Int32
    """Number of the shard in dataset.json, from 0."""
    row: Int32
    """Position in the shard, from 0."""
    key: Text
    """Unique name."""
    audio_offset: Int64
    """Byte at which the audio member's body begins in the tar."""
    audio_bytes: Int32
    """Length of that body."""
    json_offset: Int64
    """Byte at which the json member's body begins."""
    json_bytes: Int32
    """Length of that body."""
    audio_crc32: UInt32
    """zlib.crc32 of the audio body."""
    json_crc32: UInt32
    """zlib.crc32 of the json body."""
    num_samples: Int32
    """Length of the waveform at 16 kHz."""
    num_chars: Int32
    """Length of the normalized text in code points."""
    text: Text
    """Normalized text."""
    language: OptionalText
    """BCP-47 tag or None."""
    speaker: OptionalText
    """Speaker or None."""
    task: OptionalText
    """``transcribe``, ``translate`` or None."""
    source: Text
    """Audio path as the manifest gave it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignRow(IndexRow):
    """A row of the index of foreign tars, whose members keep their names and formats and may lie anywhere in the tar.

    ``source`` is the name of the audio member. ``json_offset``, ``json_bytes`` and ``json_crc32`` are those of the
    member with the text, ``txt`` or ``json``; all three are 0 where the text comes from a manifest.
    """

    audio_start: Int32
    """First sample of the utterance in the audio of its member, at 16 kHz."""


class Place(NamedTuple):
    """Where an utterance lies in its shard and what its bytes must be: the fields of `IndexRow` that reading needs."""

    key: str
    audio_offset: int
    audio_bytes: int
    json_offset: int
    json_bytes: int
    audio_crc32: int
    json_crc32: int
    num_samples: int


class ForeignDetails(NamedTuple):
    """The fields of `ForeignRow` that a loader needs besides those of `Place`."""

    source: str
    audio_start: int
    text: str
    language: str | None
    speaker: str | None
    task: str | None


def _schema_of(row: type[IndexRow]) -> pa.Schema:
    return pa.schema(
        [
            pa.field(column.name, get_args(column.type)[1], nullable=column.type == OptionalText)
            for column in fields(row)
        ]
    )


INDEX_SCHEMA = _schema_of(IndexRow)
"""The columns of index.parquet, in order."""
FOREIGN_SCHEMA = _schema_of(ForeignRow)
"""The columns of index.parquet for foreign tars."""
QUALITY_SCHEMA = pa.schema(
    [pa.field(column.name, pa.float32(), nullable=column.type == (float | None)) for column in fields(Quality)]
)
"""Further columns of index.parquet, behind the others, where the quality was measured."""
TIMES_SCHEMA = pa.schema([pa.field(name, pa.float64()) for name in ("start_seconds", "end_seconds")])
"""Further columns of index.parquet, behind all others: where the utterance lies in a recording that was cut."""
LENGTHS_SCHEMA = pa.schema([pa.field(name, pa.int32()) for name in ("num_samples", "num_chars")])
"""The columns of lengths.arrow: those from which the order of training is planned."""


def with_quality(schema: pa.Schema) -> pa.Schema:
    """Return INDEX_SCHEMA or FOREIGN_SCHEMA with the columns of the quality behind it."""
    return pa.schema([*schema, *QUALITY_SCHEMA])


def with_times(schema: pa.Schema) -> pa.Schema:
    """Return INDEX_SCHEMA, with or without the columns of the quality, with those of the times behind it."""
    return pa.schema([*schema, *TIMES_SCHEMA])


def index_table(rows: Sequence[IndexRow]) -> pa.Table:
    """Return index rows as a table in INDEX_SCHEMA."""
    columns = {name: [getattr(row, name) for row in rows] for name in INDEX_SCHEMA.names}
    return pa.table(columns, schema=INDEX_SCHEMA)
