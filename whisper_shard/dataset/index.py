"""A dataset: shards, one Parquet index over all of them, and dataset.json that vouches for both.

``dataset.json`` is written last and is the only thing a reader trusts: it names the index and every shard by sha256.

The two columns that order is planned from lie beside the index once more, as an Arrow file that is mapped into memory:
ten million utterances are open at once, and all processes share them.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from whisper_shard.dataset.schema import INDEX_SCHEMA
from whisper_shard.errors import DatasetError, suggest
from whisper_shard.storage.atomic import atomic_file, ignore_step, json_bytes, sha256_of_file, write_json

FORMAT_VERSION = 1
INDEX_NAME = "index.parquet"
LENGTHS_NAME = "lengths.arrow"
DATASET_NAME = "dataset.json"
SHARD_NAME = re.compile(r"shards/[0-9]{6,}\.tar")
"""A dataset cannot make its reader open files elsewhere."""
_LENGTHS = ("num_samples", "num_chars")
_PIECE_ROWS = 50_000  # rows read together: enough that a row group's own cost is all there is
_HASHED_BYTES = 64 << 20  # of an index at each opening, 0.1 s; what is longer is checked page by page, as it is read


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardInfo:
    """One shard as dataset.json lists it."""

    name: str
    """Path relative to the dataset, ``shards/000000.tar``."""
    num_bytes: int
    """Length of the tar."""
    sha256: str
    """Hexadecimal digest of the tar."""
    num_utterances: int
    """Utterances in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """A finished dataset, opened: what dataset.json says, and access to the index."""

    folder: Path
    """Where it lies."""
    shards: tuple[ShardInfo, ...]
    """In order of shard number."""
    index_sha256: str
    """Fingerprint of the index, and with it of every utterance's bytes (through their crc32)."""
    num_utterances: int
    """Total."""
    num_samples: int
    """Total, at 16 kHz."""
    meta: Mapping[str, Any]
    """All of dataset.json."""

    def columns(self, *names: str) -> dict[str, NDArray[Any]]:
        """Return some columns of the index, in order of (shard, row); strings come as objects. Not to be written to.

        Raises:
            DatasetError: The index is damaged.
        """
        if set(names) <= set(_LENGTHS) and "lengths" in self.meta:
            with _reading(path := self.folder / LENGTHS_NAME):
                table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        else:
            table = self._read(names)
        return {name: table.column(name).to_numpy() for name in names}

    def pieces(self, *names: str, rows: int = 0) -> Iterator[pa.Table]:
        """Yield some columns in order of (shard, row), shard by shard until there are ``rows`` rows, at least 50,000.

        Raises:
            DatasetError: The index is damaged.
        """
        path = self.folder / INDEX_NAME
        with _reading(path), _open_index(path) as file:
            for groups in _share_out(file.metadata, max(rows, _PIECE_ROWS)):
                yield file.read_row_groups(groups, columns=list(names), use_threads=False)

    def codes(self, name: str) -> NDArray[np.int32]:
        """Read a column of strings as numbers: equal strings, equal numbers; null is -1."""
        column = self._read([name]).column(name)
        encoded = column.combine_chunks().dictionary_encode()
        codes: NDArray[np.int32] = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int32)
        return codes

    def _read(self, names: Sequence[str]) -> pa.Table:
        path = self.folder / INDEX_NAME
        with _reading(path), _open_index(path) as file:
            return file.read(columns=list(names), use_threads=False)

    def shard_path(self, shard: int) -> Path:
        """Return the path of shard number ``shard``."""
        return self.folder / self.shards[shard].name


class IndexReader:
    """Reads the index one shard at a time, so that a loader process never holds the strings of all shards."""

    def __init__(self, dataset: Dataset) -> None:
        """Open the index.

        Raises:
            DatasetError: The index and dataset.json disagree on the number of utterances in a shard.
        """
        self._path = dataset.folder / INDEX_NAME
        with _reading(self._path):
            self._file = pq.ParquetFile(self._path, memory_map=True, page_checksum_verification=True)
        metadata = self._file.metadata
        groups = [i for i in range(metadata.num_row_groups) if metadata.row_group(i).num_rows]
        shards = [i for i, shard in enumerate(dataset.shards) if shard.num_utterances]
        counts = [metadata.row_group(i).num_rows for i in groups]
        if counts != [dataset.shards[i].num_utterances for i in shards]:
            raise DatasetError(
                f"{dataset.folder / INDEX_NAME}: its row groups are not the shards of {DATASET_NAME}; "
                "prepare the dataset again"
            )
        self._group_of_shard = dict(zip(shards, groups, strict=True))

    def rows(self, shard: int, *names: str) -> dict[str, list[Any]]:
        """Return some columns of one shard's rows, as lists of Python values.

        Raises:
            DatasetError: The index is damaged.
        """
        with _reading(self._path):
            table = self._file.read_row_group(self._group_of_shard[shard], columns=list(names), use_threads=False)
        return {name: table.column(name).to_pylist() for name in names}


def open_dataset(folder: Path | str, *, sha256: str | None = None) -> Dataset:
    """Open a finished dataset and check that its index is the one dataset.json vouches for.

    The lengths, which decide the order, are hashed each time. So is an index of up to 64 MB; of a longer one the size
    is compared, and each page has a checksum that is verified when it is read.

    Args:
        folder: The dataset's folder.
        sha256: If given, the sha256 that dataset.json itself must have; then all of the index is hashed.

    Raises:
        DatasetError: No finished dataset there, an unknown format version, or an index that was changed.
    """
    folder = Path(folder)
    path = folder / DATASET_NAME
    if not path.is_file():
        parts = [name for name in ("train", "eval") if (folder / name / DATASET_NAME).is_file()]
        siblings = [path.parent.name for path in folder.parent.glob(f"*/{DATASET_NAME}")]
        hint = f"; did you mean {folder / parts[0]}?" if parts else suggest(folder.name, siblings)
        hint = hint or "; run `whisper-shard prepare` first, or to its end"
        raise DatasetError(f"{folder}: no finished dataset here ({DATASET_NAME} is missing){hint}")
    if sha256 is not None and (found := sha256_of_file(path)) != sha256:
        raise DatasetError(f"{path}: sha256 is {found}, but {sha256} is required: this is another dataset")
    try:
        meta = json.loads(path.read_bytes())
        version = meta["format_version"]
        shards = tuple(ShardInfo(**shard) for shard in meta["shards"])
        num_utterances, num_samples = meta["totals"]["num_utterances"], meta["totals"]["num_samples"]
        promised = {
            name: (meta[part]["num_bytes"], meta[part]["sha256"])
            for part, name in (("index", INDEX_NAME), ("lengths", LENGTHS_NAME))
            if part == "index" or part in meta  # datasets made before there were lengths are read without
        }
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{path}: not a dataset description ({error!r}); prepare the dataset again") from error
    if version != FORMAT_VERSION:
        raise DatasetError(
            f"{path}: format version {version}, this program reads {FORMAT_VERSION}; use the version that wrote it"
        )
    foreign = [shard.name for shard in shards if not SHARD_NAME.fullmatch(str(shard.name))]
    if foreign:
        raise DatasetError(f"{path}: names {foreign[0]!r} as a shard; shards are named shards/000000.tar and so on")
    for name, (num_bytes, digest) in promised.items():
        is_hashed = name == LENGTHS_NAME or num_bytes <= _HASHED_BYTES or sha256 is not None
        _check_file(folder / name, num_bytes, digest if is_hashed else None)
    return Dataset(
        folder=folder,
        shards=shards,
        index_sha256=promised[INDEX_NAME][1],
        num_utterances=num_utterances,
        num_samples=num_samples,
        meta=meta,
    )


def _check_file(path: Path, num_bytes: int, digest: str | None) -> None:
    if not path.is_file():
        state = "is missing"
    elif (size := path.stat().st_size) != num_bytes:
        state = f"has {size} bytes, {DATASET_NAME} says {num_bytes}"
    elif digest is not None and (found := sha256_of_file(path)) != digest:
        state = f"has sha256 {found}, {DATASET_NAME} says {digest}"
    else:
        return
    raise DatasetError(f"{path}: {state}; restore it or prepare the dataset again")


def _open_index(path: Path) -> pq.ParquetFile:
    # Row groups are small and many: threads and read-ahead cost more than they bring (three times, measured).
    return pq.ParquetFile(path, memory_map=True, pre_buffer=False, page_checksum_verification=True)


def _share_out(metadata: pq.FileMetaData, rows: int) -> Iterator[list[int]]:
    """Yield runs of row groups with so many rows together, the last with what is left."""
    groups: list[int] = []
    num_rows = 0
    for group in range(metadata.num_row_groups):
        groups.append(group)
        num_rows += metadata.row_group(group).num_rows
        if num_rows >= rows:
            yield groups
            groups, num_rows = [], 0
    if groups:
        yield groups


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise DatasetError(
            f"{path}: cannot be read ({str(error).splitlines()[0]}); restore it or prepare the dataset again"
        ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexInfo:
    """An index that has been written."""

    num_bytes: int
    """Length of the file."""
    sha256: str
    """Hexadecimal digest of the file."""
    num_utterances: int
    """Rows in it."""
    num_samples: int
    """Samples of all utterances, at 16 kHz."""
    lengths_bytes: int
    """Length of the file of lengths."""
    lengths_sha256: str
    """Its hexadecimal digest."""


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


def write_index(folder: Path, tables: Iterable[pa.Table], *, on_step: Callable[[str], None] = ignore_step) -> IndexInfo:
    """Write index.parquet, one row group a table, holding one table in memory at a time, and the lengths beside it.

    Raises:
        EnvironmentFault: The disk is full, failing or not writable.
    """
    lengths: dict[str, list[NDArray[np.int32]]] = {name: [np.empty(0, np.int32)] for name in _LENGTHS}
    with (
        atomic_file(folder / INDEX_NAME, on_step=on_step) as file,
        pq.ParquetWriter(
            pa.PythonFile(file, mode="w"), INDEX_SCHEMA, compression="zstd", write_page_checksum=True
        ) as writer,
    ):
        for table in tables:
            writer.write_table(table, row_group_size=max(len(table), 1))
            for name, parts in lengths.items():
                parts.append(table.column(name).to_numpy())
    beside = pa.table({name: np.concatenate(parts) for name, parts in lengths.items()})
    with (
        atomic_file(folder / LENGTHS_NAME, on_step=on_step) as lengths_file,
        pa.ipc.new_file(pa.PythonFile(lengths_file, mode="w"), beside.schema) as lengths_writer,
    ):
        lengths_writer.write_table(beside)
    return IndexInfo(
        num_bytes=file.num_bytes,
        sha256=file.sha256,
        num_utterances=len(beside),
        num_samples=int(np.sum(beside.column("num_samples").to_numpy(), dtype=np.int64)),
        lengths_bytes=lengths_file.num_bytes,
        lengths_sha256=lengths_file.sha256,
    )


def write_description(
    folder: Path,
    *,
    shards: Sequence[ShardInfo],
    index: IndexInfo,
    meta: Mapping[str, Any],
    on_step: Callable[[str], None] = ignore_step,
) -> None:
    """Write dataset.json, which vouches for all the rest, and for itself by a digest of all but the digest."""
    content = {
        "format_version": FORMAT_VERSION,
        "shards": [asdict(shard) for shard in shards],
        "index": {"name": INDEX_NAME, "num_bytes": index.num_bytes, "sha256": index.sha256},
        "lengths": {"name": LENGTHS_NAME, "num_bytes": index.lengths_bytes, "sha256": index.lengths_sha256},
        "totals": {"num_utterances": index.num_utterances, "num_samples": index.num_samples},
        **meta,
    }
    digest = hashlib.sha256(json_bytes(content)).hexdigest()
    write_json(folder / DATASET_NAME, {**content, "digest": digest}, on_step=on_step)
