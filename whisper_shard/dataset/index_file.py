"""Read index.parquet and lengths.arrow, which may come from anybody: sizes are checked before memory is filled.

A small file can stand for a large one: compressed zeros, one long text that many rows share, a count of rows that are
not there. So the sizes that the files give are compared with dataset.json, and with what an utterance can need, before
anything is read.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from whisper_shard.dataset.description import DATASET_NAME, Description
from whisper_shard.dataset.schema import FOREIGN_SCHEMA, INDEX_SCHEMA, LENGTHS_SCHEMA, with_quality, with_times
from whisper_shard.errors import DatasetError

MAX_ROW_BYTES = 1 << 16
"""Bytes of an utterance in the index, uncompressed, on average over a shard; a shard may have a MB besides."""
_SLACK_BYTES = 1 << 20
_MAX_FOOTER_BYTES = 1 << 17  # for each row group: 24 columns with their least and greatest value
_MIN_ROW_BYTES = 4  # of index.parquet: at least the checksum of the json member, which cannot be compressed
_EXPANDED_BYTES = 1 << 30  # strings that may come of a column before its dictionary is looked at
_LENGTHS_HEADER_BYTES = 4096
_ARROW_MAGIC_BYTES = 8


class IndexFile:
    """index.parquet, opened: columns of row groups, one row group a shard."""

    def __init__(self, path: Path, description: Description) -> None:
        """Open the file and compare it with dataset.json.

        Raises:
            DatasetError: It cannot be read, or is not the index of these shards.
        """
        self._path = path
        with reading(path):
            _check_footer(path, description)
            # Row groups are small and many: threads and read-ahead cost more than they bring (three times, measured).
            self._file = pq.ParquetFile(
                path,
                memory_map=True,
                pre_buffer=False,
                page_checksum_verification=True,
                thrift_container_size_limit=2 * len(description.shards) + 1000,
            )
            metadata = self._file.metadata
            own = FOREIGN_SCHEMA if description.foreign is not None else INDEX_SCHEMA
            self._schema = self._file.schema_arrow
            if not any(
                self._schema.equals(known)
                for known in (own, with_quality(own), with_times(own), with_times(with_quality(own)))
            ):
                raise DatasetError(f"{path}: its columns are not those of an index; prepare the dataset again")
            self._counts = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        counts = [shard.num_utterances for shard in description.shards if shard.num_utterances]
        if [count for count in self._counts if count] != counts:
            raise DatasetError(f"{path}: its row groups are not the shards of {DATASET_NAME}; prepare it again")

    def __enter__(self) -> "IndexFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @property
    def schema(self) -> pa.Schema:
        """The columns: those of the quality are missing where it was not measured."""
        return self._schema

    @property
    def counts(self) -> Sequence[int]:
        """Rows of each row group."""
        return self._counts

    def read(self, groups: Sequence[int], names: Sequence[str]) -> pa.Table:
        """Return some columns of some row groups.

        Raises:
            DatasetError: The file is damaged, or holds more than its rows can need.
        """
        with reading(self._path):
            shared = self._check_groups(groups, names)
            if shared:
                self._check_strings(groups, shared)
            if len(groups) == len(self._counts):  # a third of the time for numbers
                return self._file.read(columns=list(names), use_threads=False)
            return self._file.read_row_groups(groups, columns=list(names), use_threads=False)

    def _check_groups(self, groups: Sequence[int], names: Sequence[str]) -> list[str]:
        """Check sizes; return the columns of strings that a dictionary could make very long."""
        columns = {name: self._schema.get_field_index(name) for name in names}
        shared = set()
        for number in groups:
            group = self._file.metadata.row_group(number)
            num_rows = self._counts[number]
            total = 0
            for name, column in columns.items():
                chunk = group.column(column)
                total += (size := chunk.total_uncompressed_size)
                if size * num_rows > _EXPANDED_BYTES and chunk.has_dictionary_page:
                    shared.add(name)
                if chunk.compression != "ZSTD":
                    raise self._impossible(number, f"is compressed with {chunk.compression}, not with ZSTD")
            if not 0 <= total <= MAX_ROW_BYTES * num_rows + _SLACK_BYTES:
                raise self._impossible(number, f"has {total} bytes for {num_rows} rows")
        return [name for name in shared if self._schema.field(name).type == pa.string()]

    def _check_strings(self, groups: Sequence[int], names: Sequence[str]) -> None:
        """Add up the lengths of strings that share a dictionary, without making them."""
        file = pq.ParquetFile(self._path, memory_map=True, pre_buffer=False, read_dictionary=list(names))
        for number in groups:
            for name, column in zip(names, file.read_row_group(number, list(names), use_threads=False), strict=True):
                total = 0
                for chunk in column.chunks:
                    lengths = pc.binary_length(chunk.dictionary).cast(pa.int64())
                    total += pc.sum(lengths.take(chunk.indices)).as_py() or 0
                if total > MAX_ROW_BYTES * self._counts[number] + _SLACK_BYTES:
                    raise self._impossible(number, f"has {total} bytes of {name} for {self._counts[number]} rows")

    def _impossible(self, group: int, detail: str) -> DatasetError:
        return DatasetError(f"{self._path}: row group {group} {detail}; prepare the dataset again")


def read_lengths(path: Path, num_utterances: int) -> dict[str, NDArray[np.int32]]:
    """Return the columns of lengths.arrow, mapped into memory and not to be written to.

    The arrays are taken from where the file has its buffers, so that nothing in it can ask for decompression.

    Raises:
        DatasetError: The file is damaged, or not that of so many utterances.
    """
    num_bytes = path.stat().st_size if path.is_file() else 0
    if not 0 <= num_bytes - 8 * num_utterances <= _LENGTHS_HEADER_BYTES:
        raise DatasetError(
            f"{path}: {num_bytes} bytes are not the lengths of {num_utterances} utterances; prepare the dataset again"
        )
    if not num_utterances:
        return {name: np.zeros(0, np.int32) for name in LENGTHS_SCHEMA.names}
    with reading(path):
        messages = pa.ipc.MessageReader.open_stream(pa.memory_map(str(path)).read_buffer()[_ARROW_MAGIC_BYTES:])
        schema, batch = messages.read_next_message(), messages.read_next_message()
        stride = 4 * num_utterances + -4 * num_utterances % 8  # columns begin at multiples of 8 bytes
        is_batch = batch.type == "record batch" and batch.body.size == 2 * stride
        if not is_batch or pa.ipc.read_schema(schema) != LENGTHS_SCHEMA:
            raise DatasetError(f"{path}: not two columns of {num_utterances} lengths; prepare the dataset again")
        columns = {
            name: np.frombuffer(batch.body, "<i4", num_utterances, offset=position * stride)
            for position, name in enumerate(LENGTHS_SCHEMA.names)
        }
    for name, values in columns.items():
        check_lengths(path, name, values)
    return columns


def check_lengths(path: Path, name: str, values: NDArray[Any]) -> None:
    """Check a column of lengths.

    Raises:
        DatasetError: One is negative.
    """
    if values.min(initial=0) < 0:
        row = int(values.argmin())
        raise DatasetError(f"{path}: {name} of row {row} is {values[row]}; prepare the dataset again")


def _check_footer(path: Path, description: Description) -> None:
    """Check the sizes of the file and of its footer, which is read as a whole."""
    num_utterances, num_groups = description.totals.num_utterances, len(description.shards)
    with path.open("rb") as file:
        num_bytes = file.seek(0, 2)
        file.seek(max(0, num_bytes - 8))
        footer_bytes = int.from_bytes(file.read(4), "little")
    if num_bytes < _MIN_ROW_BYTES * num_utterances:
        raise DatasetError(f"{path}: {num_bytes} bytes cannot list {num_utterances} utterances; prepare it again")
    if footer_bytes > _MAX_FOOTER_BYTES * (num_groups + 1):
        raise DatasetError(f"{path}: {footer_bytes} bytes of metadata for {num_groups} shards; prepare it again")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what Arrow raises on a damaged file into a DatasetError."""
    try:
        yield
    except (OSError, pa.ArrowException, ValueError, OverflowError, EOFError, StopIteration) as error:
        words = " ".join(str(error).split())[:300] or type(error).__name__
        raise DatasetError(f"{path}: cannot be read ({words}); restore it or prepare the dataset again") from error
