"""Parquet manifests: tables of paths, or of embedded recordings as Hugging Face's `datasets` stores them.

A folder of such files is read as the data set of a hub: ``data/train-00000-of-00010.parquet`` and the like, of which
the files of the training split are taken and the other splits named in a note.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.errors import ManifestError
from whisper_shard.manifests.columns import Columns, choose_columns
from whisper_shard.manifests.embedded import AudioColumn, find_audio_column
from whisper_shard.manifests.folders import find_first, find_split, walk_files
from whisper_shard.manifests.manifest import Manifest
from whisper_shard.manifests.paths import PathFinder, find_folder
from whisper_shard.manifests.table import make_table

MAGIC = b"PAR1"
SAMPLE_ROWS = 100
"""Rows by which the columns are found out."""
BATCH_ROWS = 10_000
"""Rows of a batch, at most; a batch lies in one row group."""
FOOTER_BYTES = 8
"""Behind the footer: its length, and the magic number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParquetLayout:
    """Where the columns of a Parquet manifest are."""

    files: tuple[Path, ...]
    """In the order in which they are read."""
    folder: Path
    """Folder to which all paths are relative."""
    names: tuple[str, ...]
    """Columns, without those that hold bytes and are not the recordings."""
    columns: Columns
    """What they mean."""
    embedded: AudioColumn | None
    """Column with embedded audio."""

    @property
    def leaves(self) -> list[str]:
        """Columns that are read: all but the bytes of recordings."""
        embedded = [f"{self.embedded.name}.path"] if self.embedded and self.embedded.has_path else []
        return [*(name for name in self.names if not self.embedded or name != self.embedded.name), *embedded]


class Parquet:
    """Parquet files: one, those that a pattern names, or those of a folder; see `formats.ManifestFormat`."""

    def recognizes(self, path: Path, head: bytes, /) -> bool:
        """Return whether it is a Parquet file, or a folder with some in it."""
        return head.startswith(MAGIC) or (path.is_dir() and find_first(path, _is_parquet) is not None)

    def open(self, path: Path, _head: bytes, config: PrepareConfig, /) -> Manifest:
        """Find out the files and the columns."""
        folder = path if path.is_dir() else path.parent
        files, notes = find_files(path) if path.is_dir() else (expand_pattern(path), [])
        layout, found = _find_layout(path, files, folder, config)
        sources = [] if layout.embedded else [row.get(layout.columns.audio) for row in _first_rows(layout)]
        base, prefix, place = find_folder(folder, [source for source in sources if isinstance(source, str)])
        finder = PathFinder(base, prefix)
        return Manifest(
            path=path,
            format="parquet",
            folder=base,
            read=lambda: read_files(layout, finder),
            digest=lambda: digest_parquet(layout),
            notes=(*notes, *found, *place),
            repairs=finder.notes,
        )


def find_files(folder: Path) -> tuple[list[Path], list[str]]:
    """Return the Parquet files of a folder that are for training, and notes on the others.

    Raises:
        ManifestError: The folder has several data sets, or no split for training.
    """
    splits = dict[str, list[Path]]()
    for file in walk_files(folder, _is_parquet):
        splits.setdefault(find_split(file.relative_to(folder)), []).append(file)
    if "train" not in splits and len(splits) > 1:
        found = ", ".join(_describe_files(files) for _, files in sorted(splits.items()))
        raise ManifestError(f"{folder}: no split is called train; name one of {found}")
    chosen = splits.pop("train") if "train" in splits else splits.popitem()[1]
    if len(folders := {file.parent for file in chosen}) > 1:
        found = " or ".join(sorted(map(str, folders)))
        raise ManifestError(f"{folder}: holds several data sets; name the folder of one: {found}")
    return chosen, [
        f"{folder.name} has its own split {name}; to evaluate on it: --eval-corpus {_describe_files(files)!r}"
        for name, files in sorted(splits.items())
    ]


def _is_parquet(name: str) -> bool:
    return name.endswith(".parquet")


def expand_pattern(path: Path) -> list[Path]:
    """Return the files that a path with ``*`` in its last part means, or the file itself."""
    return [path] if "*" not in path.name or path.exists() else sorted(path.parent.glob(path.name))


def _describe_files(files: Sequence[Path]) -> str:
    """Return what to name on the command line in order to read these files."""
    if len(files) == 1:
        return str(files[0])
    folder = files[0].parent
    if sorted(folder.glob("*.parquet")) == list(files):
        return str(folder)
    prefix = os.path.commonprefix([file.name for file in files])  # noqa: RUF071 - letter by letter is what is wanted
    return f"{folder / prefix}*.parquet"


def _find_layout(
    path: Path, files: Sequence[Path], folder: Path, config: PrepareConfig
) -> tuple[ParquetLayout, list[str]]:
    schema = _open_file(files[0]).schema_arrow
    embedded = find_audio_column(schema, config.audio_column)
    binary = [field.name for field in schema if find_audio_column(pa.schema([field]))]
    names = tuple(
        field.name for field in schema if field.name not in binary or (embedded and field.name == embedded.name)
    )
    notes = [f"column {name!r} holds bytes and is not carried along" for name in binary if name not in names]
    layout = ParquetLayout(
        files=tuple(files), folder=folder, names=names, columns=Columns(audio="", text=""), embedded=embedded
    )
    asked = replace(config, audio_column=embedded.name) if embedded else config
    columns, choices = choose_columns(path, names, _first_rows(layout), asked)
    where = "Parquet with embedded recordings" if embedded else "Parquet"
    count = f"{len(files)} files of " if len(files) > 1 else ""
    notes += [f"{path.name} is {count}{where}: {columns.describe(names)}", *choices]
    return replace(layout, columns=columns), notes


def _open_file(path: Path) -> Any:
    try:
        return pq.ParquetFile(path, pre_buffer=False)
    except (pa.ArrowException, OSError) as error:
        raise ManifestError(f"{path}: cannot be read as Parquet: {' '.join(str(error).split())}") from error


def _first_rows(layout: ParquetLayout) -> list[Mapping[str, Any]]:
    for batch in _batches(layout, layout.files[0], SAMPLE_ROWS):
        rows: list[Mapping[str, Any]] = batch.table.to_pylist()
        return rows
    return []


@dataclass(frozen=True, slots=True, kw_only=True)
class _Batch:
    """Rows of one row group, without the recordings."""

    table: pa.RecordBatch
    first_row: int
    """Row of the file."""
    group: int
    """Row group of the file."""
    is_embedded: bool
    """Whether the recordings are in the file; else only their paths are."""


def _batches(layout: ParquetLayout, path: Path, batch_rows: int) -> Iterator[_Batch]:
    """Yield the rows of a file."""
    file, first_row = _open_file(path), 0
    _check_columns(path, file.schema_arrow, layout)
    try:
        for group in range(file.num_row_groups):
            is_embedded = layout.embedded is not None and not _has_no_bytes(
                file.metadata.row_group(group), layout.embedded
            )
            for table in file.iter_batches(batch_rows, row_groups=[group], columns=layout.leaves):
                yield _Batch(table=table, first_row=first_row, group=group, is_embedded=is_embedded)
                first_row += len(table)
    except (pa.ArrowException, OSError) as error:
        raise ManifestError(f"{path}: cannot be read after row {first_row}: {' '.join(str(error).split())}") from error
    finally:
        file.close()


def _check_columns(path: Path, schema: pa.Schema, layout: ParquetLayout) -> None:
    """Check that a file has the columns of the first one."""
    missing = {*layout.columns.used, layout.columns.duration} - {"", *schema.names}
    embedded = layout.embedded
    if embedded is not None and (
        embedded.name not in schema.names or find_audio_column(schema, embedded.name) != embedded
    ):
        missing.add(embedded.name)
    if missing:
        raise ManifestError(f"{path}: has no column {min(missing)} like that of {layout.files[0].name}")


def _has_no_bytes(group: Any, embedded: AudioColumn) -> bool:
    """Return whether all recordings of a row group are null, by its statistics."""
    for index in range(group.num_columns):
        column = group.column(index)
        if column.path_in_schema == embedded.bytes_path:
            statistics = column.statistics
            return bool(statistics and statistics.has_null_count and statistics.null_count == group.num_rows)
    return True


def read_files(layout: ParquetLayout, finder: PathFinder, *, batch_rows: int = BATCH_ROWS) -> Iterator[pa.Table]:
    """Yield the rows of all files in order, as tables in MANIFEST_SCHEMA."""
    num_rows = num_groups = 0
    for path in layout.files:
        group = -1
        for batch in _batches(layout, path, batch_rows):
            num_groups += batch.group != group
            group = batch.group
            yield _as_table(batch, path, layout, first_row=num_rows, block=num_groups - 1, finder=finder)
            num_rows += len(batch.table)


def _as_table(
    batch: _Batch, path: Path, layout: ParquetLayout, *, first_row: int, block: int, finder: PathFinder
) -> pa.Table:
    values = {name: batch.table.column(name).to_pylist() for name in batch.table.schema.names}
    count = len(batch.table)
    if layout.embedded is not None:
        paths = values[layout.embedded.name] if layout.embedded.has_path else [None] * count
        values[layout.embedded.name] = names = [value["path"] if isinstance(value, dict) else None for value in paths]
    if not batch.is_embedded:
        return make_table(layout.columns, values, first_row=first_row, finder=finder)
    rows = range(batch.first_row, batch.first_row + count)
    sources = [name or f"{path.name}#{row}" for name, row in zip(names, rows, strict=True)]
    table = make_table(
        layout.columns, {**values, layout.columns.audio: sources}, first_row=first_row, finder=PathFinder(layout.folder)
    )
    places = {
        "file": pa.array([os.path.relpath(path, layout.folder)] * count, pa.string()),
        "member": pa.array(rows, pa.int64()),
        "block": pa.array([block] * count, pa.int64()),
    }
    for name, column in places.items():
        table = table.set_column(table.schema.get_field_index(name), table.schema.field(name), column)
    return table


def digest_parquet(layout: ParquetLayout) -> str:
    """Return a digest of all that decides the rows: footers, and the bytes of all columns but embedded recordings.

    A hub data set can have terabytes of recordings, which are compared by size and time of their files, as others are.
    """
    digest = hashlib.sha256()
    for path in layout.files:
        metadata, num_bytes = _open_file(path).metadata, path.stat().st_size
        digest.update(f"{path.relative_to(layout.folder).as_posix()}\n{num_bytes}\n".encode())
        with path.open("rb") as file:
            for start, length in column_ranges(metadata, layout.embedded):
                file.seek(start)
                digest.update(file.read(length))
            file.seek(num_bytes - metadata.serialized_size - FOOTER_BYTES)
            digest.update(file.read())
    return digest.hexdigest()


def column_ranges(metadata: Any, embedded: AudioColumn | None) -> Iterator[tuple[int, int]]:
    """Yield where the bytes of all columns but that with embedded recordings lie: first byte and length."""
    for index in range(metadata.num_row_groups):
        group = metadata.row_group(index)
        for number in range(group.num_columns):
            column = group.column(number)
            if embedded is None or column.path_in_schema != embedded.bytes_path:
                start = column.dictionary_page_offset or column.data_page_offset
                yield min(start, column.data_page_offset), column.total_compressed_size
