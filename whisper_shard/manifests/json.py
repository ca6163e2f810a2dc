"""JSON manifests: one object a line, as NeMo writes them, or an array of objects.

Both are read in pieces, so that neither the lines nor the array must fit into memory. A line that is no JSON becomes a
row with a reason to reject it; in an array nobody can tell where the next object would begin, so there it is an error.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa

from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.errors import ManifestError
from whisper_shard.manifests.columns import Columns, choose_columns, find_optional
from whisper_shard.manifests.encoding import find_encoding, open_text
from whisper_shard.manifests.manifest import Manifest
from whisper_shard.manifests.paths import PathFinder, find_folder
from whisper_shard.manifests.rows import BATCH_ROWS
from whisper_shard.manifests.table import dump_extra, make_table
from whisper_shard.storage.atomic import sha256_of_file

SAMPLE_ROWS = 100
"""Rows by which the columns are found out."""
_BLOCK_CHARS = 1 << 20
_MAX_OBJECT_CHARS = 1 << 26
_BETWEEN = re.compile(r"[\s,]*")
_TARRED = "shard_id"  # the key by which NeMo's manifests of tarred sets are known


class BadJson(str):
    """Why a line is no JSON; stands in the place of its value."""

    __slots__ = ()


class Json:
    """Files of JSON objects; see `formats.ManifestFormat`."""

    def recognizes(self, _path: Path, head: bytes, /) -> bool:
        """Return whether the first character opens an object or an array."""
        return begins_like_json(head)

    def open(self, path: Path, head: bytes, config: PrepareConfig, /) -> Manifest:
        """Find out the columns from the first objects."""
        encoding, notes = find_encoding(path, head, config)
        rows = [row for row in islice(read_values(path, encoding), SAMPLE_ROWS) if isinstance(row, dict)]
        names = list(dict.fromkeys(name for row in rows for name in row))
        if not names or all(isinstance(value, dict | list) for row in rows for value in row.values()):
            raise ManifestError(f"{path}: is JSON, but not a list of objects with an audio path and a transcript each")
        flat = [{name: _path_of(value) for name, value in row.items()} for row in rows]
        columns, choices = choose_columns(path, names, flat, config)
        sources = [source for row in flat if isinstance(source := row.get(columns.audio), str)]
        folder, prefix, place = find_folder(path.parent, [source.strip() for source in sources])
        finder = PathFinder(folder, prefix)
        if _TARRED in names and not any(finder.exists(finder.find(source) or source) for source in sources):
            raise ManifestError(
                f"{path}: belongs to a tarred set of NeMo ({_TARRED}): its recordings are in tar files; give the "
                "tars to `whisper-shard index TARS OUT`, or unpack them beside the manifest"
            )
        return Manifest(
            path=path,
            format="json",
            folder=folder,
            read=lambda: read_objects(path, encoding, columns, config, finder),
            digest=lambda: sha256_of_file(path),
            notes=(*notes, f"{path.name} is JSON: {columns.describe(names)}", *choices, *place),
            repairs=finder.notes,
        )


def begins_like_json(head: bytes) -> bool:
    """Return whether the first character of a file opens an object or an array, in any encoding."""
    return head.lstrip(b"\xef\xbb\xbf\xfe\xff\x00 \t\r\n")[:1] in (b"{", b"[")


def read_values(path: Path, encoding: str) -> Iterator[Any]:
    """Yield what is in the lines or in the array of a file; a BadJson for a line that cannot be understood.

    Raises:
        ManifestError: Something in an array is no JSON, it ends too early, or the text is in another encoding.
    """
    num_values = 0
    try:
        with open_text(path, encoding) as file:
            first_line = next((line for line in file if line.strip("\ufeff \t\r\n")), "")
            is_lines = first_line.lstrip("\ufeff \t")[:1] == "{" and not isinstance(_parse(first_line), BadJson)
            file.seek(0)
            for value in _read_lines(file) if is_lines else _read_stream(file):
                yield value
                num_values += 1
    except UnicodeDecodeError as error:
        raise ManifestError(
            f"{path}: not {encoding} after object {num_values}; name its encoding: --encoding"
        ) from error
    except (OSError, EOFError, ValueError) as error:
        raise ManifestError(f"{path}: cannot be read after object {num_values}: {error}") from error


def _parse(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        return BadJson(f"no JSON: {error}")


def _read_lines(file: TextIO) -> Iterator[Any]:
    return (_parse(line.strip()) for line in file if line.strip())


def _read_stream(file: TextIO) -> Iterator[Any]:
    """Yield the elements of an array, or objects that follow one another over several lines each."""
    decoder, text, place = json.JSONDecoder(), file.read(_BLOCK_CHARS).lstrip("\ufeff \t\r\n"), 0
    is_array = text.startswith("[")
    place = int(is_array)
    while True:
        place = _skip(text, place)
        if is_array and text.startswith("]", place):
            return
        try:
            value, place = decoder.raw_decode(text, place)
        except ValueError:
            more = file.read(max(_BLOCK_CHARS, len(text) - place))
            if not more and place == len(text) and not is_array:
                return
            if not more or len(text) - place > _MAX_OBJECT_CHARS:
                raise
            text, place = text[place:] + more, 0
            continue
        yield value
        if place > _BLOCK_CHARS:
            text, place = text[place:], 0


def _skip(text: str, place: int) -> int:
    found = _BETWEEN.match(text, place)
    return found.end() if found else place


def _path_of(value: Any) -> Any:
    """Return the path of an audio object ``{"path": ...}``, and any other value as it is."""
    return value["path"] if isinstance(value, dict) and isinstance(value.get("path"), str) else value


def read_objects(
    path: Path,
    encoding: str,
    columns: Columns,
    config: PrepareConfig,
    finder: PathFinder,
    *,
    batch_rows: int = BATCH_ROWS,
) -> Iterator[pa.Table]:
    """Yield the rows in order, as tables in MANIFEST_SCHEMA of up to ``batch_rows`` rows."""
    num_rows, values = 0, read_values(path, encoding)
    while batch := list(islice(values, batch_rows)):
        yield _as_table(batch, columns, config, first_row=num_rows, finder=finder)
        num_rows += len(batch)


def _as_table(
    batch: Sequence[Any], columns: Columns, config: PrepareConfig, *, first_row: int, finder: PathFinder
) -> pa.Table:
    faults = {
        i: ("malformed_row", str(value) if isinstance(value, BadJson) else f"no object but {type(value).__name__}")
        for i, value in enumerate(batch)
        if not isinstance(value, dict)
    }
    rows: list[Mapping[str, Any]] = [value if isinstance(value, dict) else {} for value in batch]
    # A key such as "offset" may come for the first time after a million rows.
    columns = replace(columns, **find_optional(columns, set().union(*rows), config))
    used = columns.used
    values = {name: [row.get(name) for row in rows] for name in (*used, columns.duration) if name}
    values[columns.audio] = [_path_of(value) for value in values[columns.audio]]
    extra = [dump_extra(row, used) for row in rows]
    return make_table(columns, values, first_row=first_row, finder=finder, faults=faults, extra=extra)
