"""Check every byte of a dataset against its checksums, and name shard and key of whatever was changed.

dataset.json carries its own digest and holds checksums of the index and every other file; the index says what each byte
of a shard must be: headers and padding follow from names and sizes, bodies have a crc32. The sha256 of the whole shard
is compared last.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whisper_shard.audio.foreign import foreign_decoders
from whisper_shard.audio.members import decode_member
from whisper_shard.dataset.description import (
    DATASET_NAME,
    INDEX_NAME,
    LENGTHS_NAME,
    Description,
    FileInfo,
    ShardInfo,
    has_description,
    has_own_digest,
    read_description_bytes,
)
from whisper_shard.dataset.index import Dataset, IndexReader, open_dataset
from whisper_shard.dataset.reader import RawUtterance, decode_json, find_faults, raw_utterance
from whisper_shard.dataset.schema import KEY_PATTERN, LENGTHS_SCHEMA, ForeignDetails, Place
from whisper_shard.dataset.shard import BLOCK
from whisper_shard.dataset.verify_foreign import check_foreign_members
from whisper_shard.errors import DatasetError
from whisper_shard.storage.atomic import sha256_of_file
from whisper_shard.storage.location import Location, parse_location
from whisper_shard.storage.object_store import ObjectStore
from whisper_shard.storage.stores import StorageConfig

MAX_FAULTS_A_SHARD = 20
"""After so many the rest of a shard is not looked at."""
_SKIPPED_BYTES = 8 << 20  # read at a time
_COPIED = ("text", "language", "speaker", "task", "source")  # fields of the json member that are columns of the index
_CHECKED = ("shard", "row", "key", *LENGTHS_SCHEMA.names, *_COPIED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Something in a dataset that is not as it was written."""

    file: str
    """Relative to the dataset: ``shards/000003.tar``."""
    key: str | None
    """The utterance, where it is one's bytes."""
    detail: str
    """What is wrong, with the values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardChecked:
    """One more shard has been read to its end."""

    num_shards: int
    """Shards checked so far."""
    num_shards_total: int
    """All shards."""
    num_utterances: int
    """Utterances checked so far."""
    num_bytes: int
    """Bytes read so far."""


def verify_dataset(
    folder: Location | Path | str, *, storage: StorageConfig | None = None
) -> Iterator[Fault | ShardChecked]:
    """Yield each fault, and a ShardChecked after each shard; a sound dataset yields no Fault.

    Args:
        folder: The dataset's folder: a local path or a URL; each byte of it is read once.
        storage: How object storage is reached; None is as the environment says.

    Raises:
        DatasetError: There is no finished dataset in ``folder``.
        ConfigError: The URL, the bucket, the credentials or the endpoint are wrong.
        EnvironmentFault: The disk or the network fails.
    """
    location, storage = parse_location(folder), storage or StorageConfig()
    if not has_description(location, ObjectStore(storage)):
        open_dataset(location, storage=storage)  # says what to do
    try:
        dataset = open_dataset(location, storage=storage)
    except DatasetError as error:
        yield Fault(file=DATASET_NAME, key=None, detail=str(error))
        return
    if fault := _check_description(dataset):
        yield fault
        return
    yield from _check_other_files(dataset)
    try:
        yield from _check_index_and_shards(dataset)
    except DatasetError as error:
        yield Fault(file=INDEX_NAME, key=None, detail=str(error))


def _check_index_and_shards(dataset: Dataset) -> Iterator[Fault | ShardChecked]:
    index, lengths = IndexReader(dataset), dataset.columns(*LENGTHS_SCHEMA.names)
    num_utterances = num_bytes = num_samples = 0
    seen: set[int] = set()
    for number, shard in enumerate(dataset.shards):
        places, rows = index.places(number), index.rows(number, *_CHECKED)
        yield from _check_keys(shard, rows, number, seen)
        if dataset.description.is_relabeled:
            yield from _check_own_texts(shard, rows)
        for name, values in lengths.items():
            if values[num_utterances : num_utterances + len(places)].tolist() != rows[name]:
                yield Fault(file=LENGTHS_NAME, key=None, detail=f"{name} differs from {INDEX_NAME} in {shard.name}")
        details = index.details(number) if dataset.is_foreign else []
        yield from _check_shard(dataset, number, places, rows, details)
        num_utterances += len(places)
        num_samples += sum(rows["num_samples"])
        num_bytes += shard.num_bytes
        yield ShardChecked(
            num_shards=number + 1,
            num_shards_total=len(dataset.shards),
            num_utterances=num_utterances,
            num_bytes=num_bytes,
        )
    if num_samples != dataset.num_samples:
        detail = f"promises {dataset.num_samples} samples, the index has {num_samples}"
        yield Fault(file=DATASET_NAME, key=None, detail=detail)


def _check_description(dataset: Dataset) -> Fault | None:
    content = read_description_bytes(dataset.location, ObjectStore(dataset.storage))
    if not has_own_digest(content, dataset.description.digest):
        return Fault(file=DATASET_NAME, key=None, detail="its content does not match its own digest")
    # A long index is not hashed when it is opened, and that of a URL may have been copied long ago.
    return _check_file(dataset, INDEX_NAME, dataset.description.index)


def _check_other_files(dataset: Dataset) -> Iterator[Fault]:
    files = dict(dataset.description.files)
    if dataset.description.lengths is not None:
        files[LENGTHS_NAME] = dataset.description.lengths
    for name, expected in files.items():
        if fault := _check_file(dataset, name, expected):
            yield fault
    listed = {shard.name for shard in dataset.shards}
    # Tars that others wrote may have any neighbours; a view has no tars of its own.
    for name in () if dataset.is_foreign or dataset.description.view else sorted(_list_shards(dataset) - listed):
        yield Fault(file=name, key=None, detail=f"is not listed in {DATASET_NAME}")


def _check_file(dataset: Dataset, name: str, expected: FileInfo) -> Fault | None:
    location = dataset.location.join(name)
    try:
        if location.is_local:
            found = sha256_of_file(_regular_file(location.path))
        else:
            found = _hash_pieces(ObjectStore(dataset.storage).stream(location, expected.num_bytes))
    except FileNotFoundError:
        return Fault(file=name, key=None, detail="is missing")
    except DatasetError as error:
        return Fault(file=name, key=None, detail=str(error))
    if found == expected.sha256:
        return None
    return Fault(file=name, key=None, detail=f"has sha256 {found}, {DATASET_NAME} says {expected.sha256}")


def _regular_file(path: Path) -> Path:
    """Return a path whose opening does not wait, as that of a pipe would.

    Raises:
        FileNotFoundError: There is no regular file.
    """
    if not path.is_file():
        raise FileNotFoundError
    return path


def _hash_pieces(pieces: Iterable[bytes | memoryview]) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


def _list_shards(dataset: Dataset) -> set[str]:
    """Return the names of the files in the folder of shards; none where a server has no lists."""
    folder = dataset.location.join("shards")
    if folder.is_local:
        return {f"shards/{path.name}" for path in folder.path.glob("*")}
    if folder.scheme == "https":
        return set()
    skipped = len(dataset.location.key) + 1 if dataset.location.key else 0
    return {info.location.key[skipped:] for info in ObjectStore(dataset.storage).list(folder)}


def _check_keys(shard: ShardInfo, rows: dict[str, list[Any]], number: int, seen: set[int]) -> Iterator[Fault]:
    """Check what the index says of itself; ``seen`` holds hashes, 10 million keys would be too many."""
    for position, key in enumerate(rows["key"]):
        digest = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest())
        if digest in seen:
            yield Fault(file=shard.name, key=key, detail="key is not unique in the dataset")
        seen.add(digest)
        is_there = (rows["shard"][position], rows["row"][position]) == (number, position)
        if not is_there or not KEY_PATTERN.fullmatch(key):
            yield Fault(file=shard.name, key=key, detail=f"{INDEX_NAME} has a wrong shard, row or key for it")


def _check_own_texts(shard: ShardInfo, rows: dict[str, list[Any]]) -> Iterator[Fault]:
    """Check texts that are in the index alone; those of the shards are not delivered."""
    for key, text, num_chars in zip(rows["key"], rows["text"], rows["num_chars"], strict=True):
        if not text or len(text) != num_chars:
            detail = f"its text has {len(text)} characters, {INDEX_NAME} says {num_chars}"
            yield Fault(file=shard.name, key=key, detail=detail)


def _check_shard(
    dataset: Dataset, number: int, places: list[Place], rows: dict[str, list[Any]], details: list[ForeignDetails]
) -> Iterator[Fault]:
    num_faults, digest, shard, description = 0, hashlib.sha256(), dataset.shards[number], dataset.description
    try:
        with _open_shard(dataset, dataset.shard_location(number)) as file:
            if (size := file.num_bytes) != shard.num_bytes:
                num_faults += 1
                yield Fault(file=shard.name, key=None, detail=f"has {size} bytes, must have {shard.num_bytes}")
            found_faults: Iterator[tuple[str | None, str]]
            if description.foreign is not None:
                decoders = foreign_decoders(description.foreign.npy_sample_rate)
                found_faults = check_foreign_members(file.read, digest, places, details, decoders)
            else:
                found_faults = _check_members(file, digest, places, rows, description)
            for key, detail in found_faults:
                num_faults += 1
                yield Fault(file=shard.name, key=key, detail=detail)
                if num_faults >= MAX_FAULTS_A_SHARD:
                    break
    except FileNotFoundError:
        yield Fault(file=shard.name, key=None, detail="is missing or empty")
        return
    except DatasetError as error:  # replaced while it was read
        yield Fault(file=shard.name, key=None, detail=str(error))
        return
    if not num_faults and (found := digest.hexdigest()) != shard.sha256:
        yield Fault(file=shard.name, key=None, detail=f"sha256 is {found}, {DATASET_NAME} says {shard.sha256}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _OpenShard:
    """A shard that is read from its begin to its end."""

    read: Callable[[int], bytes]
    """Returns so many bytes, fewer only at the end."""
    num_bytes: int
    """Its length."""
    name: str
    """Path or URL."""


@contextmanager
def _open_shard(dataset: Dataset, location: Location) -> Iterator[_OpenShard]:
    """Open a shard for reading.

    Raises:
        FileNotFoundError: It is missing or empty.
    """
    if location.is_local:
        with _regular_file(location.path).open("rb") as file:
            if not (size := os.fstat(file.fileno()).st_size):
                raise FileNotFoundError
            yield _OpenShard(read=file.read, num_bytes=size, name=str(location))
        return
    store = ObjectStore(dataset.storage)
    if not (size := store.head(location).num_bytes):
        raise FileNotFoundError
    pieces = store.stream(location, size)
    buffer = bytearray()

    def read(num_bytes: int) -> bytes:
        while len(buffer) < num_bytes and (piece := next(pieces, b"")):
            buffer.extend(piece)
        data = bytes(buffer[:num_bytes])
        del buffer[:num_bytes]
        return data

    yield _OpenShard(read=read, num_bytes=size, name=str(location))


def _check_members(
    file: _OpenShard, digest: Any, places: list[Place], rows: dict[str, list[Any]], description: Description
) -> Iterator[tuple[str | None, str]]:
    """Compare a tar with what the index says each of its bytes is; yield key and detail of each difference.

    Where utterances may be skipped, as in a view, only the digest tells whether their bytes were changed.
    """
    position, suffix, may_skip = 0, description.codec, description.view is not None
    copied = [name for name in _COPIED if name != "text" or not description.is_relabeled]
    for row, place in enumerate(places):
        if may_skip and place.audio_offset > position + BLOCK:
            _skip(file, digest, place.audio_offset - BLOCK - position)
            position = place.audio_offset - BLOCK
        if place.audio_offset != position + BLOCK:
            begin = f"begins at byte {place.audio_offset - BLOCK}, it must begin at {position}"
            yield place.key, f"{INDEX_NAME} says that it {begin}"
            return
        end = place.json_offset + place.json_bytes
        block = file.read(end + -end % BLOCK - position)
        digest.update(block)
        data = memoryview(block)[: end - position]
        num_faults = 0
        for detail in find_faults(data, place, suffix=suffix):
            num_faults += 1
            yield place.key, detail
        if any(block[len(data) :]):
            yield place.key, f"padding after {place.key}.json at byte {end} is not empty"
        if not num_faults:
            raw = raw_utterance(data, place, path=file.name, suffix=suffix)
            yield from ((place.key, detail) for detail in _check_content(raw, {n: rows[n][row] for n in copied}))
        position = end + -end % BLOCK
    if may_skip and file.num_bytes > position + 2 * BLOCK:
        _skip(file, digest, file.num_bytes - position - 2 * BLOCK)
        position = file.num_bytes - 2 * BLOCK
    rest = file.read(2 * BLOCK + 1)
    digest.update(rest)
    if rest != bytes(2 * BLOCK):
        yield None, f"the end mark at byte {position} was changed"


def _skip(file: _OpenShard, digest: Any, num_bytes: int) -> None:
    while num_bytes and (piece := file.read(min(num_bytes, _SKIPPED_BYTES))):
        digest.update(piece)
        num_bytes -= len(piece)


def _check_content(raw: RawUtterance, row: dict[str, Any]) -> Iterator[str]:
    try:
        decode_member(raw.audio, suffix=raw.suffix, num_samples=raw.num_samples)
        record = decode_json(raw)
    except DatasetError as error:
        yield str(error)
        return
    for name, value in row.items():
        if record.get(name) != value:
            yield f"{name} is {record.get(name)!r} in the shard, {value!r} in {INDEX_NAME}"
            return
