"""Recordings that are embedded in Parquet files, as Hugging Face's `datasets` stores them.

A column holds the bytes of audio files, alone or in a struct ``{bytes, path}``. Parquet can only be read from the
beginning of a row group, so rows are cheap to read in the order of the file and dear in any other; the plan sees to it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from whisper_shard.audio.files import open_recording
from whisper_shard.errors import AudioError
from whisper_shard.storage.location import is_url

ROWS_AT_ONCE = 8
"""Recordings that are in memory at the same time."""
_BUFFER_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioColumn:
    """The column of a Parquet file with the audio."""

    name: str
    """Its name."""
    has_path: bool
    """Whether it is a struct with the file name beside the bytes."""

    @property
    def bytes_path(self) -> str:
        """Name of the leaf column with the bytes."""
        return f"{self.name}.bytes" if self.has_path else self.name


def find_audio_column(schema: pa.Schema, asked: str = "") -> AudioColumn | None:
    """Return the column with embedded audio, or None if there is none.

    Args:
        schema: Of the Parquet file.
        asked: Its name, if the user gives one; empty: the only one, or the one that is called ``audio``.
    """
    found = {field.name: column for field in schema if (column := _as_audio(field)) is not None}
    if asked:
        return found.get(asked)
    return found.get("audio") or (next(iter(found.values())) if len(found) == 1 else None)


def _as_audio(field: pa.Field) -> AudioColumn | None:
    if _is_binary(field.type):
        return AudioColumn(name=field.name, has_path=False)
    if pa.types.is_struct(field.type) and (index := field.type.get_field_index("bytes")) >= 0:
        return AudioColumn(name=field.name, has_path=True) if _is_binary(field.type.field(index).type) else None
    return None


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


class EmbeddedAudio:
    """Reads the bytes of single rows, and keeps the place in the file for the next one."""

    def __init__(self, audio_column: str = "", *, open_file: Callable[[str], BinaryIO] = open_recording) -> None:
        """Prepare to read.

        Args:
            audio_column: The user's choice, or empty.
            open_file: Opens a Parquet file by its path or URL.
        """
        self._asked, self._open_file = audio_column, open_file
        self._path = ""
        self._file: Any = None
        self._starts = np.zeros(1, np.int64)
        self._rows: Iterator[bytes | None] = iter(())
        self._group = self._next = -1

    def read(self, path: str, row: int) -> bytes:
        """Return the bytes of a row of a Parquet file.

        Raises:
            AudioError: The file is missing or damaged, or the row has no audio.
            OSError: The machine failed, not the file.
        """
        try:
            if path != self._path:
                self._open(path)
            content = self._seek(row)
        except pa.ArrowException as error:
            self.close()
            raise AudioError(f"damaged Parquet: {' '.join(str(error).split())}") from error
        if not content:
            raise AudioError("its row of the Parquet file has no audio", reason="empty_file")
        return content

    def close(self) -> None:
        """Close the file."""
        self._rows, self._group, self._path = iter(()), -1, ""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self, path: str) -> None:
        self.close()
        file = self._open_file(path)  # names what is wrong with a missing file
        if not is_url(path):  # which Arrow reads faster by itself
            file.close()
        self._file = pq.ParquetFile(file if is_url(path) else path, buffer_size=_BUFFER_BYTES, pre_buffer=False)
        metadata = self._file.metadata
        sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        self._starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        self._path = path

    def _seek(self, row: int) -> bytes | None:
        if not 0 <= row < self._starts[-1]:
            raise AudioError(f"the Parquet file has {self._starts[-1]} rows, row {row} is asked for")
        group = int(np.searchsorted(self._starts, row, side="right")) - 1
        if group != self._group or row < self._next:
            self._rows, self._group, self._next = self._read_group(group), group, int(self._starts[group])
        while self._next < row:
            next(self._rows)
            self._next += 1
        self._next += 1
        return next(self._rows)

    def _read_group(self, group: int) -> Iterator[bytes | None]:
        column = find_audio_column(self._file.schema_arrow, self._asked)
        if column is None:
            raise AudioError("the Parquet file has no column with audio")
        for batch in self._file.iter_batches(ROWS_AT_ONCE, row_groups=[group], columns=[column.bytes_path]):
            values = batch.column(0)
            for value in values.field("bytes") if column.has_path else values:
                yield value.as_py()
