"""The columns of a manifest once read, and its rows as ManifestRow."""

import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from whisper_shard.storage.location import Location, parse_location
from whisper_shard.utterance import ManifestRow, Rejection

BATCH_ROWS = 50_000
"""Rows of a batch: so many, and not the whole manifest, are in memory at once."""
MANIFEST_SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("transcript", pa.string(), nullable=False),
        pa.field("language", pa.string()),
        pa.field("speaker", pa.string()),
        pa.field("task", pa.string()),
        pa.field("extra", pa.string()),  # JSON object
        pa.field("file", pa.string()),  # path of the file with the audio, where it is not the source itself
        pa.field("member", pa.int64()),  # row of that file, where it is a Parquet file with the audio in it
        pa.field("block", pa.int64()),  # rows with the same number are cheap to read one after the other
        pa.field("start_seconds", pa.float64()),
        pa.field("end_seconds", pa.float64()),
        pa.field("duration_seconds", pa.float64()),
        pa.field("channel", pa.int32()),
        pa.field("reason", pa.string()),  # with its detail, where the line is already known to be unusable
        pa.field("detail", pa.string()),
    ]
)
_SAME_NAME = (
    "row", "source", "transcript", "language", "speaker", "task", "file", "member", "start_seconds", "end_seconds",
    "duration_seconds", "channel",
)  # fmt: skip


def as_rows(table: pa.Table, *, folder: Path | Location) -> Iterator[tuple[ManifestRow, Rejection | None]]:
    """Yield each row of a table in MANIFEST_SCHEMA, with its rejection where the manifest itself is at fault.

    Args:
        table: Some rows.
        folder: Folder to which relative audio paths are relative, on this machine or in object storage.
    """
    base = parse_location(folder)
    for line in table.to_pylist():
        row = ManifestRow(
            path=base.resolve(line["file"] or line["source"]),
            extra=json.loads(line["extra"]) if line["extra"] else {},
            **{name: line[name] for name in _SAME_NAME},
        )
        yield row, None if line["reason"] is None else row.reject(line["reason"], line["detail"])
