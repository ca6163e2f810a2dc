"""The recordings that a user names: files, folders and URLs."""

import io
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from whisper_shard.audio.files import open_recording
from whisper_shard.errors import AudioError, ConfigError
from whisper_shard.manifests.folders import walk_files
from whisper_shard.manifests.paths import has_audio_suffix
from whisper_shard.storage.location import Location, parse_location
from whisper_shard.storage.object_store import ObjectInfo, ObjectStore
from whisper_shard.storage.range_file import BLOCK_BYTES, RangeFile


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One recording."""

    location: Location
    """Where it lies."""
    name: str
    """Its name in messages and results: the path below the folder that was named, with slashes."""
    stem: str
    """What the names of its transcripts begin with: the name without its suffix, if that is enough to tell it apart."""
    info: ObjectInfo | None = None
    """Of an object in object storage."""

    @property
    def suffix(self) -> str:
        """Of the file's name, without dot, lower case."""
        return PurePosixPath(self.name).suffix.lower().removeprefix(".")

    def open(self, store: ObjectStore) -> BinaryIO:
        """Open the recording.

        Raises:
            AudioError: It is missing, empty or not readable.
            OSError: The machine failed.
        """
        if self.info is None:
            return open_recording(str(self.location.path))
        if not self.info.num_bytes:
            raise AudioError("the file is empty", reason="empty_file")
        return io.BufferedReader(RangeFile(self.info, store), BLOCK_BYTES)

    def state(self) -> list[int]:
        """Return size and time of modification (of an object, its version); other content has another state.

        Raises:
            AudioError: It is missing or not readable.
        """
        if self.info is not None:
            return [self.info.num_bytes, self.info.version]
        try:
            status = self.location.path.stat()
        except OSError as error:
            raise AudioError(f"cannot be opened: {error.strerror}", reason="missing_file") from error
        return [status.st_size, status.st_mtime_ns]


def find_sources(inputs: Sequence[str], store: ObjectStore) -> list[Source]:
    """Return the recordings of all files, folders and URLs that a user named, in their order.

    Raises:
        ConfigError: Nothing is named or there, a folder has no recordings, or two transcripts would have one name.
        EnvironmentFault: The network fails.
    """
    if not inputs:
        raise ConfigError("nothing to transcribe: name files, folders or URLs after the model")
    found = [pair for text in inputs for pair in _find(parse_location(text), store)]
    found = list({str(location): (location, name, info) for location, name, info in found}.values())
    stems = Counter(_without_suffix(name) for _, name, _ in found)
    sources = [
        Source(
            location=location,
            name=name,
            stem=_without_suffix(name) if stems[_without_suffix(name)] == 1 else name,
            info=info,
        )
        for location, name, info in found
    ]
    names = Counter(source.stem for source in sources)
    twice = next((stem for stem, count in names.items() if count > 1), None)
    if twice is not None:
        places = " and ".join(str(source.location) for source in sources if source.stem == twice)
        raise ConfigError(f"{places}: their transcripts would have the same name; transcribe them into two folders")
    return sources


def _find(location: Location, store: ObjectStore) -> Iterator[tuple[Location, str, ObjectInfo | None]]:
    if location.is_local:
        path = location.path
        if path.is_dir():
            paths = list(walk_files(path, has_audio_suffix))
            if not paths:
                raise ConfigError(f"{path}: no recordings in this folder; known are the usual suffixes, such as .wav")
            yield from ((parse_location(each), each.relative_to(path).as_posix(), None) for each in paths)
        elif os.path.lexists(path):
            yield location, path.name, None
        else:
            raise ConfigError(f"{path}: no such file or folder")
        return
    if location.key:
        try:
            yield location, location.name, store.head(location)
            return
        except FileNotFoundError:
            if location.scheme == "https":
                raise ConfigError(f"{location}: no such file; folders behind https cannot be listed") from None
    infos = [info for info in store.list(location) if has_audio_suffix(info.location.key)]
    if not infos:
        raise ConfigError(f"{location}: no such file, and no recordings in a folder of this name")
    skipped = len(location.key) + 1 if location.key else 0
    for info in sorted(infos, key=lambda info: info.location.key):
        yield info.location, info.location.key[skipped:], info


def _without_suffix(name: str) -> str:
    return str(PurePosixPath(name).with_suffix("")) if Path(name).stem else name
