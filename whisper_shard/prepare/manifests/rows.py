"""The columns of a manifest once read, and its rows as ManifestRow."""

import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from whisper_shard.utterance import ManifestRow, Rejection

MANIFEST_SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("transcript", pa.string(), nullable=False),
        pa.field("language", pa.string()),
        pa.field("speaker", pa.string()),
        pa.field("task", pa.string()),
        pa.field("extra", pa.string()),  # JSON object
        pa.field("reason", pa.string()),  # with its detail, where the line is already known to be unusable
        pa.field("detail", pa.string()),
    ]
)


def as_rows(table: pa.Table, *, folder: Path) -> Iterator[tuple[ManifestRow, Rejection | None]]:
    """Yield each row of a table in MANIFEST_SCHEMA, with its rejection where the manifest itself is at fault.

    Args:
        table: Some rows.
        folder: Folder of the manifest, to which relative audio paths are relative.
    """
    for line in table.to_pylist():
        row = ManifestRow(
            row=line["row"],
            source=line["source"],
            path=str(folder / line["source"]),
            transcript=line["transcript"],
            language=line["language"],
            speaker=line["speaker"],
            task=line["task"],
            extra=json.loads(line["extra"]) if line["extra"] else {},
        )
        yield row, None if line["reason"] is None else row.reject(line["reason"], line["detail"])
