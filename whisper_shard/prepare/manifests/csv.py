"""CSV manifests, read in batches: ten million lines need no more memory than ten.

A CSV file has a header. Two columns are needed, the audio path and the transcript, under any of the usual names;
``language``, ``speaker`` and ``task`` are understood where present, and every other column is carried along. A line
that is no valid row (wrong number of fields, no path) is not skipped: it becomes a row with a reason to reject it.

Batches are Arrow tables in MANIFEST_SCHEMA, so that rows can be sorted and spilled without a Python object for each.
"""

import csv
import json
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TextIO

import pyarrow as pa

from whisper_shard.errors import ManifestError
from whisper_shard.prepare.manifests.rows import MANIFEST_SCHEMA

AUDIO_COLUMNS = ("audios", "audio", "path", "file", "wav", "audio_filepath")
"""Names of the column with the audio path, in order of preference."""
TEXT_COLUMNS = ("transcription", "text", "sentence", "transcript")
"""Names of the column with the transcript, in order of preference."""
KNOWN_COLUMNS = ("language", "speaker", "task")
"""Columns with a meaning of their own; all others are extra."""
DELIMITERS = ",\t;|"
"""Characters that may separate fields; the header decides which does."""
BATCH_ROWS = 50_000
"""Rows that are read at once."""
_DIGIT = re.compile(r"[0-9]")
_FILE_NAME = re.compile(r"\.[A-Za-z0-9]{2,5}$")


class Csv:
    """CSV files with a header, in UTF-8, with any of DELIMITERS; see `formats.ManifestFormat`."""

    def recognizes(self, _path: Path, _head: bytes, /) -> bool:
        """Take any file: `find_layout` says what is wrong with one that is not CSV."""
        return True

    def read(self, path: Path, head: bytes, /, *, audio_column: str, text_column: str) -> Iterator[pa.Table]:
        """Check the header at once, then return an iterator over all rows."""
        return read_batches(path, find_layout(path, head, audio_column=audio_column, text_column=text_column))


@dataclass(frozen=True, slots=True, kw_only=True)
class CsvLayout:
    """The delimiter and the columns of one CSV file."""

    delimiter: str
    """One of DELIMITERS."""
    names: tuple[str, ...]
    """Names of the columns, in order."""
    audio_column: str
    """Column of audio paths."""
    text_column: str
    """Column of transcripts."""
    is_quoted: bool
    """Quotes may enclose a field; else (tabs, and no quote in the header) a quote is an ordinary character."""


def find_layout(path: Path, head: bytes, *, audio_column: str = "", text_column: str = "") -> CsvLayout:
    """Find delimiter and columns from the header.

    Args:
        path: The CSV file, for errors.
        head: Its first bytes.
        audio_column: Column of audio paths; empty: the first of AUDIO_COLUMNS that exists.
        text_column: Column of transcripts; empty: the first of TEXT_COLUMNS that exists.

    Raises:
        ManifestError: Not text, or no such column (with the names that exist).
    """
    first_line = _decode_first_line(path, head)
    if not first_line.strip():
        raise ManifestError(f"{path}: is empty or begins with an empty line; the first line must name the columns")
    if first_line.startswith(("{", "[{")):
        raise _not_csv(path, "JSON", f"read_json({json.dumps(path.name)}, lines={first_line.startswith('{')})")
    audio_names = (audio_column,) if audio_column else AUDIO_COLUMNS
    text_names = (text_column,) if text_column else TEXT_COLUMNS
    headers = {
        delimiter: _known_names(next(csv.reader([first_line], delimiter=delimiter)), asked=(audio_column, text_column))
        for delimiter in DELIMITERS
    }
    for delimiter, names in headers.items():
        audio = next((name for name in audio_names if name in names), None)
        text = next((name for name in text_names if name in names), None)
        if audio is not None and text is not None:
            if len(set(names)) < len(names):
                raise ManifestError(f"{path}: two columns have the same name: {', '.join(names)}")
            return CsvLayout(
                delimiter=delimiter,
                names=names,
                audio_column=audio,
                text_column=text,
                is_quoted=delimiter != "\t" or '"' in first_line,
            )
    raise _missing_column(path, max(headers.values(), key=len), audio_names, text_names)


def read_batches(path: Path, layout: CsvLayout, *, batch_rows: int = BATCH_ROWS) -> Iterator[pa.Table]:
    """Yield the rows in order, as tables in MANIFEST_SCHEMA of up to ``batch_rows`` rows; empty lines are not counted.

    Raises:
        ManifestError: Not UTF-8, or a quote that never closes or only around other rows; names the row.
    """
    num_rows = 0
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = _numbered_fields(path, file, layout)
        while batch := list(islice(lines, batch_rows)):
            yield _as_table(batch, layout, first_row=num_rows)
            num_rows += len(batch)


def _decode_first_line(path: Path, head: bytes) -> str:
    if head.startswith(b"PAR1"):
        raise _not_csv(path, "Parquet", f"read_parquet({json.dumps(path.name)})")
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise _not_utf8(path, "the header", encoding="UTF-16")
    if (place := head.find(b"\0")) >= 0:
        raise ManifestError(f"{path}: is not a CSV text file: byte {place} is zero, and it begins with {head[:8]!r}")
    # Bytes that are not UTF-8 are found here in the header only: the last character of the head may be cut in two.
    first_line = next(iter(head.decode("utf-8-sig", errors="replace").splitlines()), "")
    if "\ufffd" in first_line:
        raise _not_utf8(path, "the header")
    return first_line


def _known_names(names: Sequence[str], *, asked: Sequence[str]) -> tuple[str, ...]:
    """Return the names of a header, known ones in lower case unless a flag asks for exactly this spelling."""
    given = [name.strip() for name in names]
    known = {*AUDIO_COLUMNS, *TEXT_COLUMNS, *KNOWN_COLUMNS} - set(given)
    return tuple(name.lower() if name.lower() in known and name not in asked else name for name in given)


def _numbered_fields(path: Path, file: TextIO, layout: CsvLayout) -> Iterator[list[str]]:
    """Yield the fields of each line after the header, skipping empty lines; errors name the row."""
    reader = csv.reader(
        file, delimiter=layout.delimiter, quoting=csv.QUOTE_MINIMAL if layout.is_quoted else csv.QUOTE_NONE
    )
    audio = layout.names.index(layout.audio_column)
    row, last_line, known = -2, 0, ""
    try:
        for fields in reader:
            num_lines, last_line = reader.line_num - last_line, reader.line_num
            if not fields:
                continue
            row += 1
            if num_lines > 1 and _holds_a_row(fields, layout.delimiter, (known, *fields[audio : audio + 1])):
                raise ManifestError(
                    f"{path}: row {row}: a quote opens at line {last_line - num_lines + 1} and closes "
                    f"{num_lines - 1} lines later, with other rows in between; close it or double it"
                )
            if row >= 0:
                known = fields[audio] if num_lines == 1 and len(fields) > audio else known
                yield fields
    except UnicodeDecodeError as error:
        raise _not_utf8(path, f"a line after row {max(row, 0)}") from error
    except csv.Error as error:
        raise ManifestError(
            f"{path}: row {row + 1} (line {reader.line_num}): {error}; does a quote open there that never closes?"
        ) from error


def _holds_a_row(fields: Sequence[str], delimiter: str, known: Sequence[str]) -> bool:
    """Tell whether a quoted field has swallowed other rows: one of its lines has a field that looks like a path.

    Args:
        fields: The fields of one row.
        delimiter: What separates fields.
        known: Audio paths of this row and the one before; other paths of the corpus look like them.
    """
    shapes = {_shape_of(path) for path in known if "\n" not in path} - {""}
    fields_of_lines = [re.split(r"\r\n|\n|\r", field) for field in fields]
    return any(
        _FILE_NAME.search(name := piece.strip(' "')) or _shape_of(name) in shapes
        for lines in fields_of_lines
        if len(lines) > 1
        for line in lines
        if delimiter in line
        for piece in line.split(delimiter)
    )


def _shape_of(path: str) -> str:
    """Return what the paths of a corpus have in common, digits aside: the folder, else a name with digits in it."""
    folder, slash, name = path.strip().rpartition("/")
    if not slash and not _DIGIT.search(name):
        return ""
    return _DIGIT.sub("0", folder + slash or name)


def _as_table(batch: Sequence[list[str]], layout: CsvLayout, *, first_row: int) -> pa.Table:
    num_names = len(layout.names)
    faults: list[tuple[str, str] | tuple[None, None]] = [(None, None)] * len(batch)
    audio = layout.names.index(layout.audio_column)
    whole: list[list[str]] = []
    for position, fields in enumerate(batch):
        if len(fields) != num_names:
            faults[position] = "malformed_row", f"{len(fields)} fields, the header has {num_names}; quote the text?"
        elif not fields[audio].strip():
            faults[position] = "missing_path", f"nothing in column {layout.audio_column}"
        whole.append(fields if len(fields) == num_names else (fields + [""] * num_names)[:num_names])
    columns = dict(zip(layout.names, zip(*whole, strict=True), strict=True))
    extra_names = [n for n in layout.names if n not in (layout.audio_column, layout.text_column, *KNOWN_COLUMNS)]
    return pa.table(
        {
            "row": range(first_row, first_row + len(batch)),
            "source": [source.strip() for source in columns[layout.audio_column]],
            "transcript": columns[layout.text_column],
            **{name: _optional(columns.get(name), len(batch)) for name in KNOWN_COLUMNS},
            "extra": _as_json({name: columns[name] for name in extra_names}, len(batch)),
            "reason": [reason for reason, _ in faults],
            "detail": [detail for _, detail in faults],
        },
        schema=MANIFEST_SCHEMA,
    )


def _optional(values: Sequence[str] | None, num_rows: int) -> list[str | None]:
    return [value.strip() or None for value in values] if values is not None else [None] * num_rows


def _as_json(columns: dict[str, Sequence[str]], num_rows: int) -> list[str | None]:
    if not columns:
        return [None] * num_rows
    lines = zip(*columns.values(), strict=True)
    return [json.dumps(dict(zip(columns, line, strict=True)), ensure_ascii=False) for line in lines]


def _missing_column(
    path: Path, names: Sequence[str], audio_names: Sequence[str], text_names: Sequence[str]
) -> ManifestError:
    missing = [
        f"{what} ({flag}{'; one of' if len(wanted) > 1 else ''} {', '.join(wanted)})"
        for what, flag, wanted in (
            ("the audio path", "--audio-column", audio_names),
            ("the transcript", "--text-column", text_names),
        )
        if not set(wanted) & set(names)
    ]
    shown = ", ".join(name[:40] for name in names[:20])
    return ManifestError(f"{path}: no column for {' nor for '.join(missing)}; the header has: {shown}")


def _not_utf8(path: Path, where: str, *, encoding: str = "LATIN1") -> ManifestError:
    names = shlex.quote(path.name), shlex.quote(f"{path.stem}-utf8{path.suffix}")
    return ManifestError(
        f"{path}: {where} is not UTF-8; convert it: iconv -f {encoding} -t UTF-8 {names[0]} > {names[1]}"
    )


def _not_csv(path: Path, found: str, read: str) -> ManifestError:
    convert = f"import pandas; pandas.{read}.to_csv({json.dumps(path.stem + '.csv')}, index=False)"
    return ManifestError(f"{path}: is {found}, not CSV; convert it: python -c {shlex.quote(convert)}")
