"""The table of a score: ``score.parquet``, one row for each utterance in each kind of window."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from whisper_shard.score.outputs import is_empty, is_looping
from whisper_shard.score.report import ScoreReport, WindowReport
from whisper_shard.storage.atomic import atomic_file

TABLE_NAME = "score.parquet"
"""Name of the table in the folder of a score."""
_PHRASES = pa.list_(pa.struct([("start", pa.float64()), ("end", pa.float64()), ("text", pa.string())]))
TABLE_SCHEMA = pa.schema(
    [
        pa.field("window", pa.string(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("reference", pa.string(), nullable=False),
        pa.field("hypothesis", pa.string(), nullable=False),
        pa.field("language", pa.string(), nullable=False),
        pa.field("seconds", pa.float64(), nullable=False),
        pa.field("num_words", pa.int32(), nullable=False),
        pa.field("substitutions", pa.int32(), nullable=False),
        pa.field("deletions", pa.int32(), nullable=False),
        pa.field("insertions", pa.int32(), nullable=False),
        pa.field("wer", pa.float64(), nullable=False),
        pa.field("cer", pa.float64(), nullable=False),
        pa.field("hit_cap", pa.bool_(), nullable=False),
        pa.field("is_empty", pa.bool_(), nullable=False),
        pa.field("is_looping", pa.bool_(), nullable=False),
        pa.field("phrases", _PHRASES),
        pa.field("reference_phrases", _PHRASES),
    ]
)
"""Texts as they are; errors in the chosen form of the text; phrases with times only where these were decoded."""


def write_table(report: ScoreReport, path: Path) -> None:
    """Write the table.

    Raises:
        EnvironmentFault: The disk is full or not writable.
    """
    rows = [row for window in report.windows for row in _rows(window, report)]
    table = pa.Table.from_pylist(rows, schema=TABLE_SCHEMA)
    with atomic_file(path) as file:
        pq.write_table(table, pa.PythonFile(file, mode="w"), compression="zstd")


def _rows(window: WindowReport, report: ScoreReport) -> Iterator[dict[str, Any]]:
    for row, score in zip(window.utterances, window.scores[report.form].utterances, strict=True):
        yield {
            "window": window.window,
            "key": row.key,
            "reference": row.reference,
            "hypothesis": row.hypothesis,
            "language": row.language,
            "seconds": row.seconds,
            "num_words": score.words.num_reference,
            "substitutions": score.words.substitutions,
            "deletions": score.words.deletions,
            "insertions": score.words.insertions,
            "wer": score.words.rate,
            "cer": score.chars.rate,
            "hit_cap": row.hit_cap,
            "is_empty": is_empty(score),
            "is_looping": is_looping(score),
            "phrases": None if row.phrases is None else [asdict(phrase) for phrase in row.phrases],
            "reference_phrases": [asdict(phrase) for phrase in row.reference_phrases]
            if row.phrases is not None
            else None,
        }
