"""Check every byte of a dataset against its checksums, and name shard and key of whatever was changed.

dataset.json carries its own digest and holds checksums of the index and every other file; the index says what each byte
of a shard must be: headers and padding follow from names and sizes, bodies have a crc32. The sha256 of the whole shard
is compared last.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from whisper_shard.audio.members import decode_member
from whisper_shard.dataset.description import (
    DATASET_NAME,
    INDEX_NAME,
    LENGTHS_NAME,
    ShardInfo,
    has_own_digest,
    read_description_bytes,
)
from whisper_shard.dataset.index import Dataset, IndexReader, open_dataset
from whisper_shard.dataset.reader import RawUtterance, decode_json, find_faults, raw_utterance
from whisper_shard.dataset.schema import KEY_PATTERN, LENGTHS_SCHEMA, Place
from whisper_shard.dataset.shard import BLOCK
from whisper_shard.errors import DatasetError
from whisper_shard.storage.atomic import sha256_of_file

MAX_FAULTS_A_SHARD = 20
"""After so many the rest of a shard is not looked at."""
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


def verify_dataset(folder: Path) -> Iterator[Fault | ShardChecked]:
    """Yield each fault, and a ShardChecked after each shard; a sound dataset yields no Fault.

    Raises:
        DatasetError: There is no finished dataset in ``folder``.
    """
    if not (folder / DATASET_NAME).is_file():
        open_dataset(folder)  # says what to do
    try:
        dataset = open_dataset(folder)
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
        for name, values in lengths.items():
            if values[num_utterances : num_utterances + len(places)].tolist() != rows[name]:
                yield Fault(file=LENGTHS_NAME, key=None, detail=f"{name} differs from {INDEX_NAME} in {shard.name}")
        yield from _check_shard(dataset, shard, places, rows)
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
    if not has_own_digest(read_description_bytes(dataset.folder), dataset.description.digest):
        return Fault(file=DATASET_NAME, key=None, detail="its content does not match its own digest")
    # A long index is not hashed when it is opened.
    if (found := sha256_of_file(dataset.folder / INDEX_NAME)) != dataset.index_sha256:
        detail = f"has sha256 {found}, {DATASET_NAME} says {dataset.index_sha256}"
        return Fault(file=INDEX_NAME, key=None, detail=detail)
    return None


def _check_other_files(dataset: Dataset) -> Iterator[Fault]:
    for name, expected in dataset.description.files.items():
        path = dataset.folder / name
        if not path.is_file():
            yield Fault(file=name, key=None, detail="is missing")
        elif (found := sha256_of_file(path)) != expected.sha256:
            yield Fault(file=name, key=None, detail=f"sha256 is {found}, {DATASET_NAME} says {expected.sha256}")
    listed = {shard.name for shard in dataset.shards}
    # Where the folder of shards is missing there is nothing to list: each shard will be reported.
    for path in sorted((dataset.folder / "shards").glob("*")):
        if (name := f"shards/{path.name}") not in listed:
            yield Fault(file=name, key=None, detail=f"is not listed in {DATASET_NAME}")


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


def _check_shard(
    dataset: Dataset, shard: ShardInfo, places: list[Place], rows: dict[str, list[Any]]
) -> Iterator[Fault]:
    path = dataset.folder / shard.name
    if not path.is_file() or not path.stat().st_size:
        yield Fault(file=shard.name, key=None, detail="is missing or empty")
        return
    num_faults = 0
    if (size := path.stat().st_size) != shard.num_bytes:
        num_faults += 1
        yield Fault(file=shard.name, key=None, detail=f"has {size} bytes, must have {shard.num_bytes}")
    with path.open("rb") as file:
        digest = hashlib.sha256()
        for key, detail in _check_members(file, digest, places, rows, dataset.description.codec):
            num_faults += 1
            yield Fault(file=shard.name, key=key, detail=detail)
            if num_faults >= MAX_FAULTS_A_SHARD:
                break
    if not num_faults and (found := digest.hexdigest()) != shard.sha256:
        yield Fault(file=shard.name, key=None, detail=f"sha256 is {found}, {DATASET_NAME} says {shard.sha256}")


def _check_members(
    file: BinaryIO, digest: Any, places: list[Place], rows: dict[str, list[Any]], suffix: str
) -> Iterator[tuple[str | None, str]]:
    """Compare a tar with what the index says each of its bytes is; yield key and detail of each difference."""
    position = 0
    for row, place in enumerate(places):
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
            yield from ((place.key, detail) for detail in _check_content(raw, {n: rows[n][row] for n in _COPIED}))
        position = end + -end % BLOCK
    rest = file.read(2 * BLOCK + 1)
    digest.update(rest)
    if rest != bytes(2 * BLOCK):
        yield None, f"the end mark at byte {position} was changed"


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
