"""CSV manifests, read in batches: ten million lines need no more memory than ten.

Encoding, delimiter, header and columns are found out and noted. Two columns are needed, the audio path and the
transcript; `columns` says which others have a meaning, and the rest is carried along. A line that is no valid row
(wrong number of fields, no path) is not skipped: it becomes a row with a reason to reject it.

Batches are Arrow tables in MANIFEST_SCHEMA, so that rows can be sorted and spilled without a Python object for each.
"""

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TextIO

import pyarrow as pa

from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.errors import ManifestError
from whisper_shard.manifests.columns import ROLES, Columns, choose_columns, looks_like_path
from whisper_shard.manifests.encoding import decode_head, find_encoding, open_text
from whisper_shard.manifests.manifest import Manifest
from whisper_shard.manifests.paths import PathFinder, find_folder
from whisper_shard.manifests.rows import BATCH_ROWS
from whisper_shard.manifests.table import make_table
from whisper_shard.report.quantities import describe_number
from whisper_shard.storage.atomic import sha256_of_file

DELIMITERS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "vertical bars"}
"""What may separate fields, in order of preference."""
SAMPLE_ROWS = 100
"""Rows by which delimiter, header and columns are found out."""
_BINARY = {
    b"PK\x03\x04": "a zip archive or an Excel workbook; unpack it, or save the sheet as CSV",
    b"PAR1": "Parquet; leave out --manifest-format",
    b"\xfd7zXZ": "compressed with xz; unpack it (gzip is read as it is)",
    b"(\xb5/\xfd": "compressed with zstd; unpack it (gzip is read as it is)",
    b"BZh": "compressed with bzip2; unpack it (gzip is read as it is)",
    b"ARROW1": "an Arrow file; convert it: pandas.read_feather(...).to_parquet(...)",
    b"SQLite": "a database; export the table as CSV",
}
_DIGIT = re.compile(r"[0-9]")
_FILE_NAME = re.compile(r"\.[A-Za-z0-9]{2,5}$")
_EXCEL_SEPARATOR = re.compile(r"sep=(.)\r?\n", re.IGNORECASE)
_CONSISTENT = 0.9  # share of the first rows that must have the same number of fields


@dataclass(frozen=True, slots=True, kw_only=True)
class CsvLayout:
    """How one CSV file is written."""

    encoding: str
    """Name of a codec."""
    delimiter: str
    """What separates fields."""
    num_skipped: int
    """Lines before the first row: the header, and a line like ``sep=;`` before it."""
    names: tuple[str, ...]
    """The header; without one, the numbers of the columns from 1."""
    columns: Columns
    """What they mean."""
    is_quoted: bool
    """Quotes may enclose a field; else a quote is a letter like any other."""


class Csv:
    """CSV files, with any of DELIMITERS; see `formats.ManifestFormat`."""

    def recognizes(self, path: Path, _head: bytes, /) -> bool:
        """Take any file: `find_layout` says what is wrong with one that is not CSV."""
        return not path.is_dir()

    def open(self, path: Path, head: bytes, config: PrepareConfig, /) -> Manifest:
        """Find out the layout."""
        layout, notes = find_layout(path, head, config)
        rows = _sample(decode_head(head, layout.encoding), layout)
        audio = layout.names.index(layout.columns.audio)
        folder, prefix, place = find_folder(path.parent, [row[audio].strip() for row in rows if len(row) > audio])
        finder = PathFinder(folder, prefix)
        return Manifest(
            path=path,
            format="csv",
            folder=folder,
            read=lambda: read_batches(path, layout, finder),
            digest=lambda: sha256_of_file(path),
            notes=(*notes, *place),
            repairs=finder.notes,
        )


def find_layout(path: Path, head: bytes, config: PrepareConfig) -> tuple[CsvLayout, list[str]]:
    """Return how a CSV file is written, and notes about it.

    Args:
        path: The file.
        head: Its first bytes, decompressed.
        config: Settings: columns, encoding.

    Raises:
        ManifestError: It is no text, has no such columns, or they cannot be told.
    """
    for magic, words in _BINARY.items():
        if head.startswith(magic):
            raise ManifestError(f"{path}: is not CSV but {words}")
    encoding, notes = find_encoding(path, head, config)
    text = decode_head(head, encoding)
    excel = _EXCEL_SEPARATOR.match(text)
    text = text[excel.end() :] if excel else text
    first_line = next(iter(io.StringIO(text, newline="")), "").rstrip("\r\n")
    if not first_line.strip():
        raise ManifestError(f"{path}: is empty or begins with an empty line; the first line must name the columns")
    if first_line.startswith(("{", "[{")):
        raise ManifestError(f"{path}: is JSON, not CSV; leave out --manifest-format")
    delimiter = excel[1] if excel else _find_delimiter(path, text, first_line, config)
    is_quoted = delimiter != "\t" or '"' in first_line
    rows = _parse(text, delimiter, is_quoted=is_quoted)
    has_header = _has_header(path, rows, config)
    names = _known_names(rows[0], config) if has_header else tuple(str(i + 1) for i in range(len(rows[0])))
    if len(set(names)) < len(names):
        raise ManifestError(f"{path}: two columns have the same name: {', '.join(names)}")
    data = [dict(zip(names, row, strict=False)) for row in rows[has_header:]]
    columns, choices = choose_columns(path, names, data, config)
    layout = CsvLayout(
        encoding=encoding,
        delimiter=delimiter,
        num_skipped=bool(excel) + has_header,
        names=names,
        columns=columns,
        is_quoted=is_quoted,
    )
    return layout, [*notes, _describe(path, layout, has_header=has_header), *choices]


def _describe(path: Path, layout: CsvLayout, *, has_header: bool) -> str:
    separated = DELIMITERS.get(layout.delimiter, repr(layout.delimiter))
    header = "with a header" if has_header else "without a header (its columns are counted from 1)"
    encoding = {"cp1252": "Windows-1252", "utf-8-sig": "UTF-8"}.get(layout.encoding, layout.encoding.upper())
    columns = layout.columns.describe(layout.names)
    return f"{path.name} is CSV in {encoding}, separated by {separated}, {header}: {columns}"


def read_batches(
    path: Path, layout: CsvLayout, finder: PathFinder, *, batch_rows: int = BATCH_ROWS
) -> Iterator[pa.Table]:
    """Yield the rows in order, as tables in MANIFEST_SCHEMA of up to ``batch_rows`` rows; empty lines are not counted.

    Raises:
        ManifestError: Not in the encoding, or a quote that never closes or only around other rows; names the row.
    """
    num_rows = 0
    with open_text(path, layout.encoding) as file:
        lines = _numbered_fields(path, file, layout)
        while batch := list(islice(lines, batch_rows)):
            yield _as_table(batch, layout, first_row=num_rows, finder=finder)
            num_rows += len(batch)


def _find_delimiter(path: Path, text: str, first_line: str, config: PrepareConfig) -> str:
    """Return the delimiter that gives known names, else the one that cuts the first lines most evenly."""
    audio = {config.audio_column} if config.audio_column else set(ROLES["audio"])
    texts = {config.text_column} if config.text_column else set(ROLES["text"])
    for delimiter in DELIMITERS:
        names = set(_known_names(_parse(first_line, delimiter)[0], config))
        if audio & names and texts & names:
            return delimiter
    evenness = {delimiter: _evenness(_parse(text, delimiter, is_quoted=delimiter != "\t")) for delimiter in DELIMITERS}
    best = max(evenness, key=lambda delimiter: evenness[delimiter])
    if evenness[best] == (0.0, 0):
        raise ManifestError(
            f"{path}: no column for the audio path and the transcript: the first line has no field separated by comma, "
            f"tab, semicolon or vertical bar that repeats in the others; it begins with {first_line[:60]!r}"
        )
    return best


def _evenness(rows: Sequence[Sequence[str]]) -> tuple[float, int]:
    """Return the share of rows with the most common number of fields, and that number; zeros for a bad delimiter."""
    ((width, count),) = Counter(map(len, rows)).most_common(1)
    share = count / len(rows)
    return (share, width) if width > 1 and share >= _CONSISTENT else (0.0, 0)


def _parse(text: str, delimiter: str, *, is_quoted: bool = True) -> list[list[str]]:
    """Return the first rows of a text, without the last line, which may be cut off, unless it is the only one."""
    lines = list(io.StringIO(text, newline=""))
    whole = lines[:-1] if len(lines) > 1 and not lines[-1].endswith(("\n", "\r")) else lines
    rows = list[list[str]]()
    try:
        for row in csv.reader(whole, delimiter=delimiter, quoting=csv.QUOTE_MINIMAL if is_quoted else csv.QUOTE_NONE):
            if row:
                rows.append(row)
            if len(rows) > SAMPLE_ROWS:
                break
    except csv.Error:
        pass  # reading names the row
    return rows or [[]]


def _sample(text: str, layout: CsvLayout) -> list[list[str]]:
    excel = _EXCEL_SEPARATOR.match(text)
    rows = _parse(text[excel.end() if excel else 0 :], layout.delimiter, is_quoted=layout.is_quoted)
    return rows[layout.num_skipped - bool(excel) :]


def _has_header(path: Path, rows: Sequence[Sequence[str]], config: PrepareConfig) -> bool:
    """Return whether the first line names the columns: no field of it is a recording."""
    if {config.audio_column, config.text_column} & set(rows[0]):
        return True
    finder = PathFinder(path.parent)
    return not any(looks_like_path(field) or (field.strip() and finder.exists(field.strip())) for field in rows[0])


def _known_names(names: Sequence[str], config: PrepareConfig) -> tuple[str, ...]:
    """Return the names of a header, without spaces around them; a column without a name gets its number."""
    return tuple(
        name if name and name in (config.audio_column, config.text_column) else name.strip() or f"column_{i}"
        for i, name in enumerate(names, 1)
    )


def _numbered_fields(path: Path, file: TextIO, layout: CsvLayout) -> Iterator[list[str]]:
    """Yield the fields of each row, skipping empty lines; errors name the row."""
    reader = csv.reader(
        file, delimiter=layout.delimiter, quoting=csv.QUOTE_MINIMAL if layout.is_quoted else csv.QUOTE_NONE
    )
    audio = layout.names.index(layout.columns.audio)
    row, last_line, known = -1 - layout.num_skipped, 0, ""
    try:
        for fields in reader:
            num_lines, last_line = reader.line_num - last_line, reader.line_num
            if not fields:
                continue
            row += 1
            if num_lines > 1 and _holds_a_row(fields, layout.delimiter, (known, *fields[audio : audio + 1])):
                raise ManifestError(
                    f"{path}: row {row}: a quote opens at line {last_line - num_lines + 1} and closes "
                    f"{describe_number(num_lines - 1, 'line')} later, with other rows in between; close it or double it"
                )
            if row >= 0:
                known = fields[audio] if num_lines == 1 and len(fields) > audio else known
                yield fields
    except UnicodeDecodeError as error:
        raise ManifestError(
            f"{path}: a line after row {max(row, 0)} is not in the encoding {layout.encoding}; "
            "name the right one: --encoding cp1252, gbk, shift_jis ..."
        ) from error
    except csv.Error as error:
        raise ManifestError(
            f"{path}: row {row + 1} (line {reader.line_num}): {error}; does a quote open there that never closes?"
        ) from error
    except (OSError, EOFError) as error:
        raise ManifestError(f"{path}: cannot be read after row {max(row, 0)}: {error}") from error


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


def _describe_fields(num_fields: int, num_names: int) -> str:
    hint = "; quote the text?" if num_fields > num_names else ""
    return f"{describe_number(num_fields, 'field')}, there are {describe_number(num_names, 'column')}{hint}"


def _as_table(batch: Sequence[list[str]], layout: CsvLayout, *, first_row: int, finder: PathFinder) -> pa.Table:
    num_names = len(layout.names)
    faults = {
        position: ("malformed_row", _describe_fields(len(fields), num_names))
        for position, fields in enumerate(batch)
        if len(fields) != num_names
    }
    whole = [fields if len(fields) == num_names else (fields + [""] * num_names)[:num_names] for fields in batch]
    values: Mapping[str, Sequence[str]] = dict(zip(layout.names, zip(*whole, strict=True), strict=True))
    return make_table(layout.columns, values, first_row=first_row, finder=finder, faults=faults)
