"""Columns of any manifest become a table in MANIFEST_SCHEMA; what is wrong with a row is noted in it.

Every format ends here, so that times, channels, paths and extra columns mean the same in all of them.
"""

import json
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pyarrow as pa

from whisper_shard.manifests.columns import Columns
from whisper_shard.manifests.paths import PathFinder
from whisper_shard.manifests.rows import BATCH_ROWS, MANIFEST_SCHEMA

CLOCK_TOLERANCE_SECONDS = 0.25
"""How much ``end`` may differ from ``start`` plus ``duration``."""
CHANNEL_NAMES = {"left": 0, "l": 0, "right": 1, "r": 1, "mix": None, "": None}
"""Words for channels; else a channel is a number from 0."""
TASKS = {"asr": "transcribe", "ast": "translate"}
"""Names of tasks in the manifests of NeMo's Canary models, and those of Whisper."""
_to_json = json.JSONEncoder(ensure_ascii=False, default=str).encode  # json.dumps would make an encoder for each row
_DECIMAL_COMMA = re.compile(r"\d+,\d+")
_CLOCK = re.compile(r"(?:(\d+):)?(\d+):(\d+(?:\.\d+)?)")


def make_table(
    columns: Columns,
    values: Mapping[str, Sequence[Any]],
    *,
    first_row: int,
    finder: PathFinder,
    faults: Mapping[int, tuple[str, str]] | None = None,
    extra: Sequence[str | None] | None = None,
) -> pa.Table:
    """Return some rows as a table in MANIFEST_SCHEMA.

    Args:
        columns: What the columns mean.
        values: Each column's values; a column that is missing has none.
        first_row: Number of the first of these rows in the manifest.
        finder: Finds the audio files.
        faults: Reason and detail of rows that are already known to be unusable, by position.
        extra: JSON of what is carried along; None: every column that is not used.
    """
    rows = _Rows(columns, values, faults or {})
    sources = [rows.read_source(i) for i in range(rows.count)]
    transcripts = [rows.read_transcript(i) for i in range(rows.count)]
    spans = [rows.read_span(i) for i in range(rows.count)] if rows.has_times else [(None, None, None)] * rows.count
    channels = [rows.read_channel(i) for i in range(rows.count)] if columns.channel else [None] * rows.count
    starts, ends, durations = zip(*spans, strict=True) if spans else ((), (), ())
    return pa.table(
        {
            "row": range(first_row, first_row + rows.count),
            "source": sources,
            "transcript": transcripts,
            "language": rows.read_names(columns.language),
            "speaker": rows.read_names(columns.speaker),
            "task": [TASKS.get(task, task) if task else task for task in rows.read_names(columns.task)],
            "extra": rows.dump_extra() if extra is None else extra,
            "file": finder.find_all(sources),
            "member": pa.nulls(rows.count),
            "block": pa.nulls(rows.count),
            "start_seconds": pa.array(starts, pa.float64()),
            "end_seconds": pa.array(ends, pa.float64()),
            "duration_seconds": pa.array(durations, pa.float64()),
            "channel": pa.array(channels, pa.int32()),
            "reason": [rows.faults.get(i, (None, None))[0] for i in range(rows.count)],
            "detail": [rows.faults.get(i, (None, None))[1] for i in range(rows.count)],
        },
        schema=MANIFEST_SCHEMA,
    )


@dataclass(frozen=True, slots=True)
class Line:
    """One row of a manifest that is not read column by column."""

    values: Mapping[str, Any]
    """What it holds, by column; what has no meaning is carried along."""
    fault: tuple[str, str] | None = None
    """Reason and detail, if it cannot be used."""


def make_tables(
    columns: Columns, lines: Iterable[Line], finder: PathFinder, *, batch_rows: int = BATCH_ROWS
) -> Iterator[pa.Table]:
    """Yield rows as tables in MANIFEST_SCHEMA of up to ``batch_rows`` rows.

    Args:
        columns: What the columns mean.
        lines: The rows, in order.
        finder: Finds the audio files.
        batch_rows: Rows that are in memory at once.
    """
    used, num_rows, remaining = columns.used, 0, iter(lines)
    while batch := list(islice(remaining, batch_rows)):
        yield make_table(
            columns,
            {name: [line.values.get(name) for line in batch] for name in (*used, columns.duration) if name},
            first_row=num_rows,
            finder=finder,
            faults={i: line.fault for i, line in enumerate(batch) if line.fault},
            extra=[dump_extra(line.values, used) for line in batch],
        )
        num_rows += len(batch)


def dump_extra(values: Mapping[str, Any], used: Collection[str]) -> str | None:
    """Return the JSON of what is carried along, or None if there is nothing."""
    extra = {name: value for name, value in values.items() if name not in used}
    return _to_json(extra) if extra else None


class _Rows:
    """The values of some rows, and the faults found while they are read; the first fault of a row counts."""

    def __init__(
        self, columns: Columns, values: Mapping[str, Sequence[Any]], faults: Mapping[int, tuple[str, str]]
    ) -> None:
        self.columns, self.values, self.faults = columns, values, dict(faults)
        self.count = len(values[columns.audio])
        self.times = [(name, values.get(name)) for name in (columns.start, columns.end, columns.duration)]
        self.has_times = any(name for name, _ in self.times)

    def read_source(self, i: int) -> str:
        value = self.values[self.columns.audio][i]
        if isinstance(value, str) and (source := value.strip()):
            return source
        words = f"nothing in column {self.columns.audio}"
        if value is not None and not isinstance(value, str):
            words = f"column {self.columns.audio} holds no path but {_show(value)}"
        self._blame(i, "missing_path", words)
        return ""

    def read_transcript(self, i: int) -> str:
        if not self.columns.text:
            return ""
        value = self.values[self.columns.text][i]
        if isinstance(value, str):
            return value
        if isinstance(value, int | float) and not isinstance(value, bool) and not _is_nothing(value):
            return str(value)
        self._blame(i, "missing_transcript", f"column {self.columns.text} holds {_show(value)}")
        return ""

    def read_names(self, name: str) -> list[str | None]:
        values = self.values.get(name)
        if values is None:
            return [None] * self.count
        return [None if _is_nothing(value) else str(value).strip() or None for value in values]

    def read_span(self, i: int) -> tuple[float | None, float | None, float | None]:
        """Return where the utterance begins and ends in the recording, or how long the recording should be."""
        try:
            return resolve_span(*(read_seconds(name, values[i]) if values else None for name, values in self.times))
        except ValueError as error:
            self._blame(i, "malformed_row", str(error))
            return None, None, None

    def read_channel(self, i: int) -> int | None:
        try:
            return read_channel(self._value("channel", i))
        except ValueError as error:
            self._blame(i, "malformed_row", f"{self.columns.channel} {error}")
            return None

    def dump_extra(self) -> list[str | None]:
        used = self.columns.used
        kept = {name: values for name, values in self.values.items() if name not in used}
        if not kept:
            return [None] * self.count
        lines = zip(*kept.values(), strict=True)
        return [_to_json(dict(zip(kept, line, strict=True))) for line in lines]

    def _value(self, role: str, i: int) -> Any:
        values = self.values.get(getattr(self.columns, role))
        return None if values is None else values[i]

    def _blame(self, i: int, reason: str, detail: str) -> None:
        self.faults.setdefault(i, (reason, detail))


def read_seconds(name: str, value: Any) -> float | None:
    """Return a time in seconds, or None where there is none.

    Args:
        name: Its column; a name that ends in ``_ms`` holds milliseconds.
        value: A number, a text with a number, or ``[hours:]minutes:seconds``.

    Raises:
        ValueError: It is none of these, negative, or not finite.
    """
    if value is None or value == "" or _is_nothing(value):
        return None
    try:
        seconds = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        if isinstance(value, str) and not value.strip():
            return None
        seconds = _read_clock(value)
    else:
        seconds = seconds / 1000 if name[-3:].lower() == "_ms" else seconds
    if not 0 <= seconds < math.inf:
        hint = ", with a point" if isinstance(value, str) and _DECIMAL_COMMA.fullmatch(value.strip()) else ""
        words = f"it must be seconds{hint} (--ignore-columns {name} carries it along)"
        raise ValueError(f"{name} is {_show(value)}; {words}")
    return seconds


def _read_clock(value: Any) -> float:
    """Return the seconds of ``[hours:]minutes:seconds``, NaN for anything else."""
    clock = _CLOCK.fullmatch(value.strip()) if isinstance(value, str) else None
    return math.nan if clock is None else int(clock[1] or 0) * 3600 + int(clock[2]) * 60 + float(clock[3])


def resolve_span(
    start: float | None, end: float | None, duration: float | None
) -> tuple[float | None, float | None, float | None]:
    """Return start and end of an utterance in its recording, or the length that a whole recording should have.

    Args:
        start: Beginning in seconds.
        end: End in seconds.
        duration: With one of the others, length of the utterance; alone, length of the recording.

    Raises:
        ValueError: It ends before it begins, or the three do not agree.
    """
    if start is None and end is None:
        return None, None, duration
    start = start or 0.0
    if end is None:
        end = None if duration is None else start + duration
    elif duration is not None and abs(end - start - duration) > CLOCK_TOLERANCE_SECONDS:
        raise ValueError(f"from {start:g} s to {end:g} s is not {duration:g} s")
    if end is not None and end <= start:
        raise ValueError(f"it ends at {end:g} s, but begins at {start:g} s")
    return start, end, None


def read_channel(value: Any) -> int | None:
    """Return the number of a channel, from 0, or None for the mix of all.

    Raises:
        ValueError: It is neither a number nor one of CHANNEL_NAMES.
    """
    if _is_nothing(value):
        return None
    word = str(value).strip().lower()
    if word in CHANNEL_NAMES:
        return CHANNEL_NAMES[word]
    if not (word.removesuffix(".0").isdecimal() and len(word) < 6):
        raise ValueError(f"is {_show(value)}; it must be a number from 0, left, right or mix")
    return int(word.removesuffix(".0"))


def _is_nothing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _show(value: Any) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
