"""Open a dataset and read its index.

The two columns from which the order is planned lie beside the index once more, as an Arrow file that is mapped into
memory: ten million utterances are open at once, and all processes share them.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from whisper_shard.dataset.description import (
    DATASET_NAME,
    INDEX_NAME,
    LENGTHS_NAME,
    Description,
    FileInfo,
    ShardInfo,
    check_base,
    locate_shard,
    read_description,
)
from whisper_shard.dataset.index_copy import copy_index
from whisper_shard.dataset.index_file import IndexFile, check_lengths, read_lengths, reading
from whisper_shard.dataset.schema import KEY_PATTERN, LENGTHS_SCHEMA, ForeignDetails, Place
from whisper_shard.dataset.shard import BLOCK, MAX_FOREIGN_BYTES, MAX_MEMBER_BYTES
from whisper_shard.errors import DatasetError
from whisper_shard.storage.atomic import sha256_of_file
from whisper_shard.storage.location import Location, parse_location
from whisper_shard.storage.object_store import ObjectStore
from whisper_shard.storage.stores import StorageConfig

_PIECE_ROWS = 50_000  # rows read together: enough that a row group's own cost is all there is
_HASHED_BYTES = 64 << 20  # of an index at each opening, 0.1 s; what is longer is checked page by page, as it is read
_CACHED_SHARDS = 512  # shards whose places a reader keeps
_BRIDGED_BYTES = 16 << 10  # between two audio members, that are read along: header, padding and text
_HOLE_BYTES = 512 << 10  # the same in a view: about what one more request to object storage costs in time
_PLACES = ("audio_offset", "audio_bytes", "json_offset", "json_bytes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """A finished dataset, opened: what dataset.json says, and access to the index."""

    location: Location
    """Where it lies."""
    folder: Path
    """Where its index lies on this machine: the dataset's own folder, or that of a copy."""
    description: Description
    """What dataset.json says."""
    storage: StorageConfig = field(default_factory=StorageConfig)
    """How the shards are reached, if they are in object storage."""

    @property
    def shards(self) -> tuple[ShardInfo, ...]:
        """In order of shard number."""
        return self.description.shards

    @property
    def is_foreign(self) -> bool:
        """Whether the shards are tars that others wrote."""
        return self.description.foreign is not None

    @property
    def shard_scheme(self) -> str:
        """``file``, or the scheme of the URLs at which the shards lie."""
        return self.shard_location(0).scheme if self.shards else self.location.scheme

    @property
    def index_sha256(self) -> str:
        """Fingerprint of the index, and with it of every utterance's bytes (through their crc32)."""
        return self.description.index.sha256

    @property
    def num_utterances(self) -> int:
        """Total."""
        return self.description.totals.num_utterances

    @property
    def num_samples(self) -> int:
        """Total, at 16 kHz."""
        return self.description.totals.num_samples

    def columns(self, *names: str) -> dict[str, NDArray[Any]]:
        """Return some columns of the index, in order of (shard, row); strings come as objects. Not to be written to.

        Raises:
            DatasetError: The index is damaged.
        """
        if set(names) <= set(LENGTHS_SCHEMA.names) and self.description.lengths is not None:
            lengths = read_lengths(self.folder / LENGTHS_NAME, self.num_utterances)
            return {name: lengths[name] for name in names}
        table = self._read(names)
        with reading(path := self.folder / INDEX_NAME):
            columns = {name: table.column(name).to_numpy() for name in names}
        for name in set(names) & set(LENGTHS_SCHEMA.names):
            check_lengths(path, name, columns[name])
        return columns

    def pieces(self, *names: str, rows: int = 0) -> Iterator[pa.Table]:
        """Yield some columns in order of (shard, row), shard by shard until there are ``rows`` rows, at least 50,000.

        Raises:
            DatasetError: The index is damaged.
        """
        with self.open_index() as index:
            for groups in _share_out(index.counts, max(rows, _PIECE_ROWS)):
                yield index.read(groups, names)

    def codes(self, name: str) -> NDArray[np.int32]:
        """Read a column of strings as numbers: equal strings, equal numbers; null is -1."""
        column = self._read([name]).column(name)
        encoded = column.combine_chunks().dictionary_encode()
        codes: NDArray[np.int32] = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int32)
        return codes

    def shard_location(self, shard: int) -> Location:
        """Return where shard number ``shard`` lies.

        Raises:
            DatasetError: It is a tar that others wrote, and its name is one that no index should hold.
        """
        return locate_shard(self.location, self.shards[shard])

    def shard_path(self, shard: int) -> Path:
        """Return the path of shard number ``shard`` of a local dataset.

        Raises:
            ConfigError: The dataset is not local.
        """
        return self.shard_location(shard).path

    def open_index(self) -> IndexFile:
        """Open the index.

        Raises:
            DatasetError: It is damaged, or not the index of the shards that dataset.json lists.
        """
        return IndexFile(self.folder / INDEX_NAME, self.description)

    def _read(self, names: Sequence[str]) -> pa.Table:
        with self.open_index() as index:
            return index.read(range(len(index.counts)), names)


class IndexReader:
    """Reads the index one shard at a time, so that a loader process never holds the strings of all shards."""

    def __init__(self, dataset: Dataset) -> None:
        """Open the index.

        Raises:
            DatasetError: The index and dataset.json disagree on the number of utterances in a shard.
        """
        self._path = dataset.folder / INDEX_NAME
        self._shards = dataset.shards
        self._is_foreign = dataset.is_foreign
        self._bridged_bytes = _HOLE_BYTES if dataset.description.view else _BRIDGED_BYTES
        self._ends = list(accumulate(shard.num_utterances for shard in dataset.shards))
        self._index = dataset.open_index()
        groups = [i for i, count in enumerate(self._index.counts) if count]
        shards = [i for i, shard in enumerate(dataset.shards) if shard.num_utterances]
        self._group_of_shard = dict(zip(shards, groups, strict=True))
        self._places = lru_cache(_CACHED_SHARDS)(self._read_places)

    def rows(self, shard: int, *names: str) -> dict[str, list[Any]]:
        """Return some columns of one shard's rows, as lists of Python values.

        Raises:
            DatasetError: The index is damaged.
        """
        if shard not in self._group_of_shard:
            return {name: [] for name in names}
        table = self._index.read([self._group_of_shard[shard]], names)
        with reading(self._path):
            return {name: table.column(name).to_pylist() for name in names}

    def places(self, shard: int) -> list[Place]:
        """Return the places of a shard's utterances, in order.

        Raises:
            DatasetError: The index is damaged, or places an utterance outside of the shard.
        """
        return self._places(shard)

    def details(self, shard: int) -> list[ForeignDetails]:
        """Return what else a loader needs of the utterances of a foreign tar, in order.

        Raises:
            DatasetError: The index is damaged.
        """
        return list(map(ForeignDetails._make, zip(*self.rows(shard, *ForeignDetails._fields).values(), strict=True)))

    def find(self, row: int) -> tuple[int, Place]:
        """Return the shard of a row of the whole index, and the utterance's place in it.

        Raises:
            DatasetError: As in `places`.
        """
        shard, position = self.locate(row)
        return shard, self._places(shard)[position]

    def key(self, row: int) -> str:
        """Return the key of a row of the whole index.

        Raises:
            DatasetError: The index is damaged.
        """
        shard, position = self.locate(row)
        return str(self.rows(shard, "key")["key"][position])

    def extents(self, shard: int) -> NDArray[np.int64]:
        """Return the bytes that a loader reads for each utterance of a shard: the first, and the one after the last.

        Two extents are neighbours where reading through costs less than reading twice. Shape (rows, 2).

        Raises:
            DatasetError: The index is damaged, or places an utterance outside of the shard.
        """
        columns = {name: np.array(values, np.int64) for name, values in self.rows(shard, *_PLACES).items()}
        if self._is_foreign:
            starts = columns["audio_offset"]
            ends = starts + columns["audio_bytes"]
        else:
            starts, ends = columns["audio_offset"] - BLOCK, columns["json_offset"] + columns["json_bytes"]
            ends += -ends % BLOCK
        extents = _bridge_gaps(starts, ends, self._bridged_bytes)
        size = self._shards[shard].num_bytes
        if len(extents) and not (
            extents[:, 0].min() >= 0 and np.all(extents[:, 0] < extents[:, 1]) and extents.max() <= size
        ):
            raise DatasetError(
                f"{self._path}: places utterances of shard {shard} outside its {size} bytes; prepare the dataset again"
            )
        return extents

    def locate(self, row: int) -> tuple[int, int]:
        """Return (shard, row within the shard) of a row of the whole index."""
        shard = bisect_right(self._ends, row)
        return shard, row - self._ends[shard] + self._shards[shard].num_utterances

    def _read_places(self, shard: int) -> list[Place]:
        places = list(map(Place._make, zip(*self.rows(shard, *Place._fields).values(), strict=True)))
        size = self._shards[shard].num_bytes
        for place in places:
            if not _is_possible(place, size, is_foreign=self._is_foreign):
                raise DatasetError(
                    f"{self._path}: places {place.key!r} at bytes {place.audio_offset} to "
                    f"{place.json_offset + place.json_bytes} of a shard of {size} bytes, which cannot be; "
                    "prepare the dataset again"
                )
        return places


def open_dataset(
    dataset: Location | Path | str, *, sha256: str | None = None, storage: StorageConfig | None = None
) -> Dataset:
    """Open a finished dataset and check that its index is the one that dataset.json names.

    The lengths, which decide the order, are hashed each time. So is an index of up to 64 MB; of a longer one the size
    is compared, and each page has a checksum that is verified when it is read. The index of a dataset in object
    storage is copied to this machine first.

    Args:
        dataset: The dataset's folder: a local path, or a URL such as ``s3://bucket/data/train``.
        sha256: If given, the sha256 that dataset.json itself must have; then all of the index is hashed.
        storage: How object storage is reached; None is as the environment says.

    Raises:
        DatasetError: No finished dataset there, an unknown format version, or an index that was changed; or a view of
            a dataset that was changed.
        ConfigError: The URL, the bucket, the credentials or the endpoint are wrong.
        EnvironmentFault: The network fails, or the index cannot be copied.
    """
    location, storage = parse_location(dataset), storage or StorageConfig()
    store = ObjectStore(storage)
    description = read_description(location, sha256=sha256, store=store)
    check_base(location, description, store)
    is_hashed = sha256 is not None or description.index.num_bytes <= _HASHED_BYTES
    if not location.is_local:
        folder = copy_index(location, description, store, is_hashed=is_hashed)
        return Dataset(location=location, folder=folder, description=description, storage=storage)
    folder = location.path
    _check_file(folder / INDEX_NAME, description.index, is_hashed=is_hashed)
    if description.lengths is not None:
        _check_file(folder / LENGTHS_NAME, description.lengths, is_hashed=True)
    return Dataset(location=location, folder=folder, description=description, storage=storage)


def _check_file(path: Path, info: FileInfo, *, is_hashed: bool) -> None:
    if not path.is_file():
        state = "is missing"
    elif (size := path.stat().st_size) != info.num_bytes:
        state = f"has {size} bytes, {DATASET_NAME} says {info.num_bytes}"
    elif is_hashed and (found := sha256_of_file(path)) != info.sha256:
        state = f"has sha256 {found}, {DATASET_NAME} says {info.sha256}"
    else:
        return
    raise DatasetError(f"{path}: {state}; restore it or prepare the dataset again")


def _is_possible(place: Place, shard_bytes: int, *, is_foreign: bool) -> bool:
    """Return whether the members can lie there; ours are adjacent. Checked before any of the sizes is used."""
    key, audio_offset, audio_bytes, json_offset, json_bytes, *_ = place
    limit = MAX_FOREIGN_BYTES if is_foreign else MAX_MEMBER_BYTES
    is_sized = 0 <= audio_bytes <= limit and 0 <= json_bytes <= MAX_MEMBER_BYTES
    if not is_sized or audio_offset < BLOCK or place.num_samples < 0 or not KEY_PATTERN.fullmatch(key):
        return False
    if is_foreign:
        return max(audio_offset + audio_bytes, json_offset + json_bytes) <= shard_bytes and json_offset >= 0
    follows = audio_offset + audio_bytes + -audio_bytes % BLOCK + BLOCK
    return json_offset == follows <= shard_bytes - json_bytes


def _bridge_gaps(starts: NDArray[np.int64], ends: NDArray[np.int64], bridged_bytes: int) -> NDArray[np.int64]:
    """Return from where to where utterances reach, and up to the next one where little lies in between."""
    places = np.unique(starts)
    following = np.append(places, np.iinfo(np.int64).max)[np.searchsorted(places, starts, side="right")]
    return np.stack([starts, np.where(following - ends <= bridged_bytes, following, ends)], axis=1)


def _share_out(counts: Sequence[int], rows: int) -> Iterator[list[int]]:
    """Yield runs of row groups with so many rows together, the last with what is left."""
    groups: list[int] = []
    num_rows = 0
    for group, count in enumerate(counts):
        groups.append(group)
        num_rows += count
        if num_rows >= rows:
            yield groups
            groups, num_rows = [], 0
    if groups:
        yield groups
