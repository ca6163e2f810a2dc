"""The index and dataset.json are written; from then on the dataset exists."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from whisper_shard.dataset.description import (
    DATASET_NAME,
    FORMAT_VERSION,
    INDEX_NAME,
    LENGTHS_NAME,
    FileInfo,
    ShardInfo,
    Totals,
)
from whisper_shard.dataset.schema import INDEX_SCHEMA, LENGTHS_SCHEMA
from whisper_shard.storage.atomic import WRITER, AtomicWriter, HashingFile, json_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexInfo:
    """An index that has been written."""

    index: FileInfo
    """index.parquet."""
    lengths: FileInfo
    """lengths.arrow."""
    totals: Totals
    """Sums over its rows."""


def write_dataset(
    folder: Path, *, shards: Sequence[ShardInfo], tables: Iterable[pa.Table], meta: Mapping[str, Any]
) -> None:
    """Write index.parquet (one row group a shard), then dataset.json: from now on the dataset exists.

    Args:
        folder: The dataset's folder; the shards are already in it.
        shards: In order of shard number.
        tables: One table in INDEX_SCHEMA for each shard, in the same order.
        meta: Whatever else dataset.json should say: configuration, fingerprints, versions.
    """
    write_description(folder, shards=shards, index=write_index(folder, tables), meta=meta)


def write_index(
    folder: Path, tables: Iterable[pa.Table], *, schema: pa.Schema = INDEX_SCHEMA, writer: AtomicWriter = WRITER
) -> IndexInfo:
    """Write index.parquet, one row group a table, holding one table in memory at a time, and the lengths beside it.

    Args:
        folder: The dataset's folder.
        tables: In ``schema``.
        schema: INDEX_SCHEMA or FOREIGN_SCHEMA, with or without the columns of the quality.
        writer: Writes the files.

    Raises:
        EnvironmentFault: The disk is full, failing or not writable.
    """
    lengths: dict[str, list[NDArray[np.int32]]] = {name: [np.empty(0, np.int32)] for name in LENGTHS_SCHEMA.names}
    with (
        writer.file(folder / INDEX_NAME) as file,
        pq.ParquetWriter(
            pa.PythonFile(file, mode="w"), schema, compression="zstd", write_page_checksum=True
        ) as index_writer,
    ):
        for table in tables:
            index_writer.write_table(table, row_group_size=max(len(table), 1))
            for name, parts in lengths.items():
                parts.append(table.column(name).to_numpy())
    beside = pa.table({name: np.concatenate(parts) for name, parts in lengths.items()}, schema=LENGTHS_SCHEMA)
    with (
        writer.file(folder / LENGTHS_NAME) as lengths_file,
        pa.ipc.new_file(pa.PythonFile(lengths_file, mode="w"), LENGTHS_SCHEMA) as lengths_writer,
    ):
        lengths_writer.write_table(beside)
    num_samples = int(np.sum(beside.column("num_samples").to_numpy(), dtype=np.int64))
    return IndexInfo(
        index=_file_info(file),
        lengths=_file_info(lengths_file),
        totals=Totals(num_utterances=len(beside), num_samples=num_samples),
    )


def write_description(
    folder: Path,
    *,
    shards: Sequence[ShardInfo],
    index: IndexInfo,
    meta: Mapping[str, Any],
    writer: AtomicWriter = WRITER,
) -> None:
    """Write dataset.json, which holds checksums of all the rest, and a digest of itself without that digest."""
    content = {
        "format_version": FORMAT_VERSION,
        "shards": [asdict(shard) for shard in shards],
        "index": {"name": INDEX_NAME, **asdict(index.index)},
        "lengths": {"name": LENGTHS_NAME, **asdict(index.lengths)},
        "totals": asdict(index.totals),
        **meta,
    }
    digest = hashlib.sha256(json_bytes(content)).hexdigest()
    writer.json(folder / DATASET_NAME, {**content, "digest": digest})


def _file_info(file: HashingFile) -> FileInfo:
    return FileInfo(num_bytes=file.num_bytes, sha256=file.sha256)
