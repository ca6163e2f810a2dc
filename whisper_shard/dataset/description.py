"""dataset.json: what a dataset holds, with a checksum of each of its files.

It is written last and is the root of trust: readers use only files that it names and that have the checksums it gives.
It may be wrong itself, so it is parsed into typed records with limits; everything else in it is ignored.
"""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from posixpath import join, normpath, relpath
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from whisper_shard.errors import ConfigError, DatasetError, suggest
from whisper_shard.storage.location import Location, parse_location
from whisper_shard.storage.object_store import ObjectStore

DATASET_NAME = "dataset.json"
INDEX_NAME = "index.parquet"
LENGTHS_NAME = "lengths.arrow"
FORMAT_VERSION = 1
"""Of datasets whose shards this package wrote."""
FOREIGN_VERSION = 2
"""Of indexes of tars that others wrote."""
VIEW_VERSION = 3
"""Of views, of either."""
MAX_BYTES = 64 << 20
"""Longest dataset.json that is read: enough for 300,000 shards."""
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
"""Hexadecimal digest."""
FileSize = Annotated[int, Meta(ge=0, le=1 << 50)]
"""Bytes of a file."""
Count = Annotated[int, Meta(ge=0, lt=1 << 31)]
"""Utterances or rows of a manifest; they are numbered with 32 bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardInfo:
    """One shard as dataset.json lists it."""

    name: Annotated[str, Meta(pattern=r"^shards/[0-9]{6,12}\.tar\Z")]
    """Path relative to the dataset, ``shards/000000.tar``: a dataset cannot make its reader open files elsewhere."""
    num_bytes: FileSize
    """Length of the tar."""
    sha256: Sha256
    """Digest of the tar."""
    num_utterances: Count
    """Utterances in it."""

    @property
    def cached_name(self) -> str:
        """Path of a copy, relative to the folder of the copies of the dataset."""
        return self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkedShard(ShardInfo):
    """A tar that may lie outside of the dataset: one that others wrote, or that of a dataset with a view."""

    name: Annotated[str, Meta(pattern=r"^[^\x00-\x1f\x7f]{1,4000}\.tar\Z")]
    """Path relative to the dataset, or absolute, or a URL; see `locate_shard`."""

    @property
    def cached_name(self) -> str:
        """Path of a copy: its own path may lead anywhere."""
        return f"shards/{self.sha256}.tar"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileInfo:
    """Another file as dataset.json lists it."""

    num_bytes: FileSize
    """Length."""
    sha256: Sha256
    """Digest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Sums over all shards."""

    num_utterances: Count
    """Utterances."""
    num_samples: Annotated[int, Meta(ge=0, le=1 << 62)]
    """Samples at 16 kHz."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Foreign:
    """What is known of all tars that others wrote."""

    texts: Literal["members", "nemo", "shar"]
    """Where the texts come from: members of the tars, NeMo manifests, or the cuts of Lhotse Shar."""
    npy_sample_rate: Annotated[int, Meta(ge=1_000, le=768_000)]
    """Hz of the npy members, which do not say it themselves."""
    suffixes: Mapping[str, Count] = field(default_factory=dict)
    """Utterances by suffix of their audio member."""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What a view was made of: an index of some of the utterances of a dataset, whose shards it uses."""

    dataset: Annotated[str, Meta(pattern=r"^[^\x00-\x1f\x7f]{1,4000}\Z")]
    """Folder of the dataset, named as its tars are."""
    sha256: Sha256
    """What dataset.json of the dataset must have."""
    where: tuple[str, ...]
    """The conditions that were applied, one after the other."""
    dropped: Mapping[str, Count]
    """Utterances dropped, by the first clause that did not hold."""
    columns: Mapping[str, Sha256] = field(default_factory=dict)
    """Digest of each table of columns beside the dataset that it was made with, by their name."""
    relabeled_by: str = ""
    """Columns whose hypotheses are the texts, instead of those in the shards; empty: none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """The fields of dataset.json that readers use."""

    shards: tuple[ShardInfo, ...]
    """In order of shard number."""
    index: FileInfo
    """index.parquet; its digest stands for every utterance's bytes, too (through their crc32)."""
    totals: Totals
    """Sums over all shards."""
    lengths: FileInfo | None = None
    """lengths.arrow; datasets made before there were lengths are read without."""
    files: Mapping[Annotated[str, Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}\Z")], FileInfo] = field(
        default_factory=dict
    )
    """Further files in the dataset's folder, by name."""
    codec: Literal["npy", "flac"] = "npy"
    """Suffix of the audio members."""
    rejects: Mapping[str, Count] = field(default_factory=dict)
    """Rows that were not kept, by reason."""
    empty_texts: Literal["reject", "keep"] = "reject"
    """keep: it was prepared with utterances in which nobody speaks, and may hold nothing else."""
    digest: str = ""
    """sha256 of dataset.json without this field."""
    foreign: Foreign | None = None
    """What is known of tars that others wrote; None: this package wrote them."""
    view: View | None = None
    """What it is a view of; None: it is no view."""

    @property
    def is_relabeled(self) -> bool:
        """Whether the texts are those of the index, not those of the shards."""
        return self.view is not None and bool(self.view.relabeled_by)


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignDescription(Description):
    """The fields of dataset.json of an index of foreign tars."""

    shards: tuple[LinkedShard, ...]
    """In order of shard number."""
    foreign: Foreign
    """What is known of all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewDescription(Description):
    """The fields of dataset.json of a view."""

    shards: tuple[LinkedShard, ...]
    """In order of shard number; only those with an utterance."""
    view: View
    """What it is a view of."""


_DESCRIPTIONS: Mapping[int, type[Description]] = {
    FORMAT_VERSION: Description,
    FOREIGN_VERSION: ForeignDescription,
    VIEW_VERSION: ViewDescription,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Version:
    format_version: int


def read_description(
    folder: Location | Path, *, sha256: str | None = None, store: ObjectStore | None = None
) -> Description:
    """Read dataset.json.

    Args:
        folder: The dataset's folder.
        sha256: If given, the digest that dataset.json itself must have.
        store: Access to it, if it is in object storage; None is the usual one.

    Raises:
        DatasetError: There is none, another one than required, of an unknown version, or with impossible values.
        ConfigError: Bucket, credentials or endpoint are wrong.
        EnvironmentFault: The network fails.
    """
    folder = parse_location(folder)
    path, content = folder.join(DATASET_NAME), read_description_bytes(folder, store or ObjectStore())
    if sha256 is not None and (found := hashlib.sha256(content).hexdigest()) != sha256:
        raise DatasetError(f"{path}: sha256 is {found}, but {sha256} is required: this is another dataset")
    try:
        version = msgspec.json.decode(content, type=_Version).format_version
        if version not in _DESCRIPTIONS:
            known = ", ".join(map(str, _DESCRIPTIONS))
            raise DatasetError(
                f"{path}: format version {version}, this program reads {known}; use the version that wrote it"
            )
        description: Description = msgspec.json.decode(content, type=_DESCRIPTIONS[version])
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: not a dataset description ({error}); prepare the dataset again") from error
    if (num_utterances := sum(s.num_utterances for s in description.shards)) != description.totals.num_utterances:
        raise DatasetError(
            f"{path}: {description.totals.num_utterances} utterances in all, but {num_utterances} in its shards; "
            "prepare the dataset again"
        )
    return description


def locate_shard(dataset: Location, shard: ShardInfo) -> Location:
    """Return where a shard lies.

    A tar that others wrote, or that of a view, may lie outside of the dataset's folder. Even so, a dataset.json from
    anywhere can make its reader do no more than open a regular file or an object named ``*.tar``, compare its size, and
    hand to a decoder bytes whose checksum the index knew already. One in object storage cannot name files of this
    machine.

    Raises:
        DatasetError: The name is one that neither `whisper-shard index` nor `filter` writes.
    """
    if not isinstance(shard, LinkedShard):
        return dataset.join(shard.name)
    if (location := _follow(dataset, shard.name)) is None:
        raise DatasetError(f"{dataset}: names the tar {shard.name!r}, which it cannot reach; index the tars again")
    return location


def locate_base(view: Location, description: Description) -> Location:
    """Return where the dataset lies that a view was made of; of a dataset that is no view, itself.

    Raises:
        DatasetError: The name is one that `whisper-shard filter` does not write.
    """
    if description.view is None:
        return view
    if (location := _follow(view, description.view.dataset)) is None:
        raise DatasetError(
            f"{view}: is a view of {description.view.dataset!r}, which it cannot reach; make the view again"
        )
    return location


def check_base(view: Location, description: Description, store: ObjectStore) -> None:
    """Check that the dataset is still the one that a view was made of.

    Raises:
        DatasetError: It is gone, or was changed.
    """
    if description.view is None:
        return
    base = locate_base(view, description)
    try:
        content = read_description_bytes(base, store)
    except DatasetError as error:
        raise DatasetError(f"{view}: is a view of a dataset that is missing: {error}") from error
    if hashlib.sha256(content).hexdigest() != description.view.sha256:
        relabel = f" --relabel {name}" if (name := description.view.relabeled_by) else ""
        raise DatasetError(
            f"{view}: is a view of {base}, which was changed after the view was made; make it again by "
            f"`whisper-shard filter {base} {view} --where ...{relabel}` ({' and '.join(description.view.where)})"
        )


def name_from(folder: Location, target: Location) -> str:
    """Return the name by which a dataset in ``folder`` refers to something elsewhere; see `locate_shard`.

    It is relative where both lie in one bucket, or share a folder of this machine, so that both can be moved together.

    Raises:
        ConfigError: The dataset is to lie in object storage, and the target on this machine.
    """
    if not target.is_local:
        is_near = (folder.scheme, folder.bucket) == (target.scheme, target.bucket)
        return relpath(target.key or ".", folder.key or ".") if is_near else str(target)
    if not folder.is_local:
        raise ConfigError(f"{folder}: cannot refer to {target} on this machine; upload that first, or choose a folder")
    path, start = target.path.resolve(), folder.path.resolve()
    shared = os.path.commonpath([path, start])
    return os.path.relpath(path, start) if shared != os.sep else str(path)


def _follow(dataset: Location, name: str) -> Location | None:
    """Return where a name leads, or None where it leads nowhere that it may."""
    try:
        if "://" in name:
            if not (location := parse_location(name)).is_local:
                return location
        elif dataset.is_local:
            return Location(dataset.scheme, "", str(Path(dataset.key, name)))
        elif not name.startswith("/"):
            return Location(dataset.scheme, dataset.bucket, "").join(normpath(join(dataset.key, name)))
    except ConfigError:
        return None
    return None


def read_description_bytes(folder: Location, store: ObjectStore) -> bytes:
    """Return the bytes of dataset.json; errors as in `read_description`."""
    return _read_local(folder.path) if folder.is_local else _fetch(folder, store)


def has_description(folder: Location, store: ObjectStore) -> bool:
    """Return whether a finished dataset lies there.

    Raises:
        ConfigError: Bucket, credentials or endpoint are wrong.
        EnvironmentFault: The network fails.
    """
    path = folder.join(DATASET_NAME)
    if path.is_local:
        return path.path.is_file()
    try:
        store.head(path)
    except FileNotFoundError:
        return False
    return True


def _fetch(folder: Location, store: ObjectStore) -> bytes:
    try:
        return store.get(folder.join(DATASET_NAME), max_bytes=MAX_BYTES)
    except FileNotFoundError as error:
        parts = [part for part in ("train", "eval") if has_description(folder.join(part), store)]
        hint = f"did you mean {folder.join(parts[0])}?" if parts else "run `whisper-shard prepare` first, or to its end"
        raise DatasetError(f"{folder}: no finished dataset here ({DATASET_NAME} is missing); {hint}") from error


def _read_local(folder: Path) -> bytes:
    path = folder / DATASET_NAME
    if not path.is_file():
        raise DatasetError(f"{folder}: no finished dataset here ({DATASET_NAME} is missing){_suggest_folder(folder)}")
    if (size := path.stat().st_size) > MAX_BYTES:
        raise DatasetError(f"{path}: has {size} bytes, more than {MAX_BYTES}; prepare the dataset again")
    return path.read_bytes()


def has_own_digest(content: bytes, digest: str) -> bool:
    """Return whether ``digest`` is the sha256 of dataset.json without the line that holds it."""
    line = f'\n "digest": "{digest}",'.encode()
    return content.count(line) == 1 and hashlib.sha256(content.replace(line, b"")).hexdigest() == digest


def _suggest_folder(folder: Path) -> str:
    parts = [name for name in ("train", "eval") if (folder / name / DATASET_NAME).is_file()]
    if parts:
        return f"; did you mean {folder / parts[0]}?"
    siblings = [path.parent.name for path in folder.parent.glob(f"*/{DATASET_NAME}")]
    return suggest(folder.name, siblings) or "; run `whisper-shard prepare` first, or to its end"
