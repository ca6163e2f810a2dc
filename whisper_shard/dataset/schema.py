"""The columns of index.parquet: one row per utterance."""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import pyarrow as pa

KEY_PATTERN = re.compile(r"[A-Za-z0-9_-]{1,90}")
"""No dot: WebDataset cuts a member's name at its first dot, and would merge ``a.b`` with ``a.c``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexRow:
    """Where one utterance lies, and what one must know before reading it: a row of index.parquet."""

    shard: int
    """Number of the shard in dataset.json, from 0."""
    row: int
    """Position in the shard, from 0."""
    key: str
    """Unique name."""
    audio_offset: int
    """Byte at which the audio member's body begins in the tar."""
    audio_bytes: int
    """Length of that body."""
    json_offset: int
    """Byte at which the json member's body begins."""
    json_bytes: int
    """Length of that body."""
    audio_crc32: int
    """zlib.crc32 of the audio body."""
    json_crc32: int
    """zlib.crc32 of the json body."""
    num_samples: int
    """Length of the waveform at 16 kHz."""
    num_chars: int
    """Length of the normalized text in code points."""
    text: str
    """Normalized text."""
    language: str | None
    """BCP-47 tag or None."""
    speaker: str | None
    """Speaker or None."""
    task: str | None
    """``transcribe``, ``translate`` or None."""
    source: str
    """Audio path as the manifest gave it."""


INDEX_SCHEMA = pa.schema(
    [
        pa.field("shard", pa.int32(), nullable=False),
        pa.field("row", pa.int32(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("audio_offset", pa.int64(), nullable=False),
        pa.field("audio_bytes", pa.int32(), nullable=False),
        pa.field("json_offset", pa.int64(), nullable=False),
        pa.field("json_bytes", pa.int32(), nullable=False),
        pa.field("audio_crc32", pa.uint32(), nullable=False),
        pa.field("json_crc32", pa.uint32(), nullable=False),
        pa.field("num_samples", pa.int32(), nullable=False),
        pa.field("num_chars", pa.int32(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("language", pa.string()),
        pa.field("speaker", pa.string()),
        pa.field("task", pa.string()),
        pa.field("source", pa.string(), nullable=False),
    ]
)


def index_table(rows: Sequence[IndexRow]) -> pa.Table:
    """Return index rows as a table in INDEX_SCHEMA."""
    return pa.Table.from_pylist([asdict(row) for row in rows], schema=INDEX_SCHEMA)
