"""Check every byte of a dataset against what vouches for it, and name shard and key of whatever was changed.

dataset.json carries its own digest and vouches for the index and every other file; the index says what each byte of a
shard must be: headers and padding follow from names and sizes, bodies have a crc32, and the sha256 of the whole shard
has the last word.
"""

import hashlib
import json
import mmap
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from whisper_shard.audio.members import decode_member
from whisper_shard.dataset.index import DATASET_NAME, INDEX_NAME, LENGTHS_NAME, Dataset, ShardInfo, open_dataset
from whisper_shard.dataset.schema import KEY_PATTERN
from whisper_shard.dataset.shard import BLOCK, tar_header
from whisper_shard.errors import DatasetError
from whisper_shard.storage.atomic import json_bytes, sha256_of_file

MAX_FAULTS_A_SHARD = 20
"""After so many, a shard is damaged beyond interest."""


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
    num_utterances = num_bytes = num_samples = 0
    seen: set[int] = set()
    lengths = dataset.columns("num_samples", "num_chars")
    with pq.ParquetFile(folder / INDEX_NAME) as index:
        if index.num_row_groups != len(dataset.shards):
            detail = f"has {index.num_row_groups} row groups, {DATASET_NAME} lists {len(dataset.shards)} shards"
            yield Fault(file=INDEX_NAME, key=None, detail=detail)
            return
        for number, shard in enumerate(dataset.shards):
            rows = index.read_row_group(number).to_pylist()
            yield from _check_keys(shard, rows, number, seen)
            for name, values in lengths.items():
                if values[num_utterances : num_utterances + len(rows)].tolist() != [row[name] for row in rows]:
                    yield Fault(file=LENGTHS_NAME, key=None, detail=f"{name} differs from {INDEX_NAME} in {shard.name}")
            yield from _check_shard(dataset, shard, rows)
            num_utterances += len(rows)
            num_samples += sum(row["num_samples"] for row in rows)
            num_bytes += shard.num_bytes
            yield ShardChecked(
                num_shards=number + 1,
                num_shards_total=len(dataset.shards),
                num_utterances=num_utterances,
                num_bytes=num_bytes,
            )
    if (num_utterances, num_samples) != (dataset.num_utterances, dataset.num_samples):
        detail = f"promises {dataset.num_utterances} utterances of {dataset.num_samples} samples, the index has "
        yield Fault(file=DATASET_NAME, key=None, detail=f"{detail}{num_utterances} of {num_samples}")


def _check_description(dataset: Dataset) -> Fault | None:
    content = dict(dataset.meta)
    digest = content.pop("digest", None)
    if digest != hashlib.sha256(json_bytes(content)).hexdigest():
        return Fault(file=DATASET_NAME, key=None, detail="its content does not match its own digest")
    if (dataset.folder / DATASET_NAME).read_bytes() != json_bytes({**content, "digest": digest}):
        return Fault(file=DATASET_NAME, key=None, detail="written differently than this program writes it")
    if (found := sha256_of_file(dataset.folder / INDEX_NAME)) != dataset.index_sha256:  # a long one is not yet hashed
        detail = f"has sha256 {found}, {DATASET_NAME} says {dataset.index_sha256}"
        return Fault(file=INDEX_NAME, key=None, detail=detail)
    return None


def _check_other_files(dataset: Dataset) -> Iterator[Fault]:
    for name, expected in dataset.meta.get("files", {}).items():
        path = dataset.folder / name
        if not path.is_file():
            yield Fault(file=name, key=None, detail="is missing")
        elif (found := sha256_of_file(path)) != expected["sha256"]:
            yield Fault(file=name, key=None, detail=f"sha256 is {found}, {DATASET_NAME} says {expected['sha256']}")
    listed = {shard.name for shard in dataset.shards}
    for path in sorted((dataset.folder / "shards").glob("*")):  # none where the folder is missing: each shard tells
        if (name := f"shards/{path.name}") not in listed:
            yield Fault(file=name, key=None, detail=f"is not listed in {DATASET_NAME}")


def _check_keys(shard: ShardInfo, rows: list[dict[str, Any]], number: int, seen: set[int]) -> Iterator[Fault]:
    """Check what the index says of itself; ``seen`` holds hashes, 10 million keys would be too many."""
    if len(rows) != shard.num_utterances:
        detail = f"has {len(rows)} rows for it, {DATASET_NAME} says {shard.num_utterances}"
        yield Fault(file=shard.name, key=None, detail=f"{INDEX_NAME} {detail}")
    for position, row in enumerate(rows):
        digest = int.from_bytes(hashlib.blake2b(row["key"].encode(), digest_size=8).digest())
        if digest in seen:
            yield Fault(file=shard.name, key=row["key"], detail="key is not unique in the dataset")
        seen.add(digest)
        if (row["shard"], row["row"]) != (number, position) or not KEY_PATTERN.fullmatch(row["key"]):
            yield Fault(file=shard.name, key=row["key"], detail=f"{INDEX_NAME} has a wrong shard, row or key for it")


def _check_shard(dataset: Dataset, shard: ShardInfo, rows: list[dict[str, Any]]) -> Iterator[Fault]:
    path = dataset.folder / shard.name
    if not path.is_file() or not path.stat().st_size:
        yield Fault(file=shard.name, key=None, detail="is missing or empty")
        return
    num_faults = 0
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as tar:
        if len(tar) != shard.num_bytes:
            num_faults += 1
            yield Fault(file=shard.name, key=None, detail=f"has {len(tar)} bytes, must have {shard.num_bytes}")
        for key, detail in _find_changes(tar, rows, dataset.meta.get("codec", "npy")):
            num_faults += 1
            yield Fault(file=shard.name, key=key, detail=detail)
            if num_faults >= MAX_FAULTS_A_SHARD:
                break
        if not num_faults and (found := hashlib.sha256(tar).hexdigest()) != shard.sha256:
            yield Fault(file=shard.name, key=None, detail=f"sha256 is {found}, {DATASET_NAME} says {shard.sha256}")


def _find_changes(tar: mmap.mmap, rows: list[dict[str, Any]], codec: str) -> Iterator[tuple[str | None, str]]:
    """Compare a tar with what the index says each of its bytes is; yield key and detail of each difference."""
    position = 0
    for row in rows:
        for kind, suffix in (("audio", codec), ("json", "json")):
            name, num_bytes = f"{row['key']}.{suffix}", row[f"{kind}_bytes"]
            offset = position + BLOCK
            end = offset + num_bytes
            position = end + -num_bytes % BLOCK
            if row[f"{kind}_offset"] != offset:
                yield row["key"], f"{INDEX_NAME} says {name} begins at {row[f'{kind}_offset']}, it must be {offset}"
            if tar[offset - BLOCK : offset] != tar_header(name, num_bytes):
                yield row["key"], f"tar header of {name} at byte {offset - BLOCK} was changed"
            if any(tar[end:position]):
                yield row["key"], f"padding after {name} at byte {end} is not empty"
            body = tar[offset:end]
            if (found := zlib.crc32(body)) != row[f"{kind}_crc32"]:
                yield row["key"], f"{name} has crc32 {found:08x}, {INDEX_NAME} says {row[f'{kind}_crc32']:08x}"
            elif detail := _check_audio(body, codec, row) if kind == "audio" else _check_json(body, row):
                yield row["key"], detail
    if tar[position:] != bytes(2 * BLOCK):
        yield None, f"the end mark at byte {position} was changed"


def _check_audio(body: bytes, codec: str, row: Mapping[str, Any]) -> str | None:
    try:
        decode_member(body, suffix=codec, num_samples=row["num_samples"])
    except DatasetError as error:
        return str(error)
    return None


def _check_json(body: bytes, row: Mapping[str, Any]) -> str | None:
    try:
        record = json.loads(body)
    except ValueError as error:
        return f"json member cannot be read: {error}"
    for name in ("text", "language", "speaker", "task", "source"):
        if record.get(name) != row[name]:
            return f"{name} is {record.get(name)!r} in the shard, {row[name]!r} in {INDEX_NAME}"
    return None
