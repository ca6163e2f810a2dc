"""The columns of a manifest once read, and its rows as ManifestRow."""

import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from whisper_shard.utterance import ManifestRow

MANIFEST_SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("transcript", pa.string(), nullable=False),
        pa.field("language", pa.string()),
        pa.field("speaker", pa.string()),
        pa.field("task", pa.string()),
        pa.field("extra", pa.string()),  # JSON object
        pa.field("fault", pa.string()),  # "code: detail" where the line cannot be a row
    ]
)


def as_rows(table: pa.Table, *, folder: Path) -> Iterator[tuple[ManifestRow, str | None]]:
    """Yield each row of a table in MANIFEST_SCHEMA with its fault, or None where it has none.

    Args:
        table: Some rows.
        folder: Against which audio paths are resolved: that of the manifest.
    """
    for line in table.to_pylist():
        yield (
            ManifestRow(
                row=line["row"],
                source=line["source"],
                path=str(folder / line["source"]),
                transcript=line["transcript"],
                language=line["language"],
                speaker=line["speaker"],
                task=line["task"],
                extra=json.loads(line["extra"]) if line["extra"] else {},
            ),
            line["fault"],
        )
