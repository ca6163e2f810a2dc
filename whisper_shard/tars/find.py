"""Which tars a user means, and where the texts of each are."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Literal

from whisper_shard.config.index import IndexConfig
from whisper_shard.errors import ManifestError
from whisper_shard.storage.location import Location, parse_location
from whisper_shard.storage.object_store import ObjectStore
from whisper_shard.tars.member_texts import MemberTexts
from whisper_shard.tars.nemo import NemoTexts, split_manifest
from whisper_shard.tars.shar import SharTexts, find_cuts
from whisper_shard.tars.texts import Texts

MAX_TARS = 300_000
"""Tars of an index: as many as dataset.json can list."""
_BRACES = re.compile(r"\{([^{}]*)\}")
_WILD = frozenset("*?[")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_NUMBER = re.compile(r".*_(\d+)[^/]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class TextInput:
    """Where the texts of one tar come from; can be sent to another process."""

    kind: Literal["members", "nemo", "shar"]
    """Members of the tar, lines of a NeMo manifest, or cuts of Lhotse Shar."""
    path: Path = Path()
    """The file with the lines or cuts."""
    text_field: str = "text"
    """Field of the text in json members and lines."""

    def open(self) -> Texts:
        """Return what sorts the members of the tar."""
        if self.kind == "nemo":
            return NemoTexts(self.path, self.text_field)
        return SharTexts(self.path) if self.kind == "shar" else MemberTexts(self.text_field)


@dataclass(frozen=True, slots=True, kw_only=True)
class TarInput:
    """A tar to be indexed."""

    location: Location
    """Where it lies; a local path is resolved."""
    num_bytes: int
    """Its length."""
    version: str
    """What changes with its content: time of modification, or ETag."""


def find_tars(pattern: str, store: ObjectStore) -> list[TarInput]:
    """Return the tars that a user means.

    Args:
        pattern: A tar, a folder of tars, a pattern with ``*``, or a range ``{0000..0127}`` as WebDataset writes it, or
            ``_OP_0..127_CL_`` as NeMo does; or the same as URLs, without ``*``. Of a folder of Lhotse Shar: the tars
            with recordings.
        store: Access to URLs.

    Raises:
        ManifestError: There is none, or one of them is not there, or some are local and some are not.
        ConfigError: A URL, bucket or credentials are wrong.
        EnvironmentFault: The network fails.
    """
    tars = list(dict.fromkeys(tar for path in expand(pattern) for tar in _find(parse_location(path), store)))
    if not tars:
        raise ManifestError(f"{pattern}: no tar here; give a tar, a folder of tars, or a pattern in quotes")
    if len(tars) > MAX_TARS:
        raise ManifestError(f"{pattern}: {len(tars)} tars, limit {MAX_TARS}; make several indexes and mix them")
    if len({tar.location.scheme for tar in tars}) > 1:
        raise ManifestError(f"{pattern}: some tars are local and some are not; make an index of each kind")
    return tars


def expand(pattern: str) -> Iterator[str]:
    """Yield what a pattern with ranges ``{000..127}`` and lists ``{a,b}`` stands for."""
    pattern = pattern.replace("_OP_", "{").replace("_CL_", "}")
    parts = _BRACES.split(pattern)  # every other part stood in braces
    choices = [list(_choices(part)) if number % 2 else [part] for number, part in enumerate(parts)]
    return map("".join, product(*choices))


def find_texts(tars: Sequence[Location], config: IndexConfig, folder: Path) -> list[TextInput]:
    """Return for each tar where its texts come from.

    Args:
        tars: The tars.
        config: Settings: ``manifest`` and ``text_field``.
        folder: For the parts of a manifest of several tars; exists.

    Raises:
        ManifestError: A manifest is missing or belongs to no tar, or cuts are missing.
    """
    if config.manifest:
        paths = _assign_manifests(tars, config.manifest, folder)
        return [TextInput(kind="nemo", path=path, text_field=config.text_field) for path in paths]
    cuts = [find_cuts(tar.path) if tar.is_local else None for tar in tars]
    if not any(cuts):
        return [TextInput(kind="members", text_field=config.text_field)] * len(tars)
    found = [TextInput(kind="shar", path=path) for path in cuts if path is not None]
    if len(found) < len(tars):
        raise ManifestError(f"{tars[cuts.index(None)]}: has no file of cuts beside it, but other tars have; add it")
    return found


def list_text_files(tars: Sequence[Location], config: IndexConfig) -> list[Path]:
    """Return the files that hold texts, none where those are members of the tars.

    Raises:
        ManifestError: A manifest is missing.
    """
    if config.manifest:
        return _find_manifests(config.manifest)
    return [cuts for tar in tars if tar.is_local and (cuts := find_cuts(tar.path))]


def _choices(part: str) -> Iterator[str]:
    if match := _RANGE.fullmatch(part):
        first, last = int(match[1]), int(match[2])
        if last - first >= MAX_TARS:
            raise ManifestError(f"{{{part}}}: {last - first + 1} tars, limit {MAX_TARS}")
        width = len(match[1]) if match[1].startswith("0") else 0
        yield from (f"{number:0{width}d}" for number in range(first, last + 1))
    else:
        yield from part.split(",")


def _find(location: Location, store: ObjectStore) -> list[TarInput]:
    if not location.is_local:
        return _find_objects(location, store)
    path = location.path
    if path.is_dir():
        found = sorted(path.glob("*.tar"))
        return list(map(_local_tar, [tar for tar in found if find_cuts(tar)] or found))
    if path.is_file():
        if path.suffix != ".tar":
            raise ManifestError(f"{path}: is not named *.tar; unpack what is compressed: members are read in place")
        return [_local_tar(path)]
    if _WILD & set(str(path)):
        return [_local_tar(found) for found in _glob(path) if found.suffix == ".tar"]
    raise ManifestError(f"{path}: no such tar; give a tar, a folder of tars, or a pattern in quotes")


def _find_objects(location: Location, store: ObjectStore) -> list[TarInput]:
    try:
        infos = [store.head(location)] if location.name.endswith(".tar") else store.list(location)
    except FileNotFoundError as error:
        raise ManifestError(f"{location}: no such tar; give a tar or a folder of tars") from error
    found = [info for info in infos if info.location.name.endswith(".tar")]
    found.sort(key=lambda info: info.location.key)
    return [TarInput(location=i.location, num_bytes=i.num_bytes, version=i.etag or "") for i in found]


def _local_tar(path: Path) -> TarInput:
    resolved = path.resolve()
    status = resolved.stat()
    return TarInput(
        location=parse_location(resolved), num_bytes=status.st_size, version=f"modified {status.st_mtime_ns}"
    )


def _glob(pattern: Path) -> list[Path]:
    root = Path(pattern.anchor)
    return sorted(root.glob(str(pattern.relative_to(root))))


def _assign_manifests(tars: Sequence[Location], pattern: str, folder: Path) -> list[Path]:
    """Return the manifest of each tar."""
    manifests = _find_manifests(pattern)
    if len(manifests) == len(tars) == 1:
        return manifests
    numbers = [_number_of(tar) for tar in tars]
    if (twice := Counter(numbers).most_common(1)[0])[1] > 1:
        raise ManifestError(f"{tars[0]}: {twice[1]} tars have the number {twice[0]}; index one set at a time")
    if len(manifests) == 1:
        parts = split_manifest(manifests[0], folder)
    else:
        parts = {_number_of(path): path for path in manifests}
    if (missing := set(numbers) ^ parts.keys()) or len(manifests) not in (1, len(parts)):
        raise ManifestError(
            f"{pattern}: tars and manifests have different numbers, such as {min(missing, default=numbers[0])}; "
            "each tar needs its manifest, and each manifest its tar"
        )
    return [parts[number] for number in numbers]


def _find_manifests(pattern: str) -> list[Path]:
    return [found for text in expand(pattern) for found in _find_manifest(text)]


def _find_manifest(text: str) -> list[Path]:
    path = Path(text)
    if path.is_file():
        return [path]
    if _WILD & set(text) and (found := _glob(path)):
        return found
    raise ManifestError(f"{path}: no such manifest; give --manifest a file of JSON lines, or a pattern in quotes")


def _number_of(path: Location | Path) -> int:
    """Return the number of a tar or a manifest: NeMo writes ``audio_12.tar`` and ``manifest_12.json``."""
    match = _NUMBER.fullmatch(path.name)
    if match is None:
        raise ManifestError(f"{path}: its name has no number such as _12, by which tar and manifest find each other")
    return int(match[1])
