"""Manifests in object storage: copied to this machine, then read like any other.

Of a folder, the small files are copied, and of each recording an empty file of its name: so every format that knows a
folder works. Of a Parquet file with recordings in it, all but the recordings is copied. A manifest that is named alone
is copied alone; whether its recordings lie beside it, in a folder below or in one above, is asked for the first few.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq

from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.errors import ConfigError, ManifestError
from whisper_shard.manifests.embedded import find_audio_column
from whisper_shard.manifests.formats import open_manifest
from whisper_shard.manifests.manifest import Manifest
from whisper_shard.manifests.parquet import FOOTER_BYTES, MAGIC, column_ranges
from whisper_shard.manifests.paths import AUDIO_SUFFIXES, SAMPLE_PATHS, has_suffix
from whisper_shard.storage.atomic import as_environment_fault
from whisper_shard.storage.location import Location, is_url, parse_location
from whisper_shard.storage.object_store import ObjectInfo, ObjectStore
from whisper_shard.storage.range_file import BLOCK_BYTES, RangeFile

_COPIED_SUFFIXES = ("", ".txt", ".csv", ".tsv", ".json", ".jsonl", ".gz", ".parquet", ".scp")
"""Suffixes of the files of a folder that are copied; of the others only the names matter."""
_AT_ONCE = 16
_MAX_SUBFOLDERS = 100
_PARTNERS = (("supervisions", "recordings"), ("recordings", "supervisions"))  # of Lhotse: one is of no use alone


def open_remote_manifest(corpus: Location, config: PrepareConfig, *, copies: Path, store: ObjectStore) -> Manifest:
    """Copy a manifest, and open the copy.

    Args:
        corpus: A file, a folder, or a pattern of Parquet files such as ``s3://BUCKET/train-*.parquet``.
        config: Settings.
        copies: A new folder of this machine; what is returned reads from it.
        store: Access to it.

    Raises:
        ManifestError: No such file or folder, or one that cannot be used.
        EnvironmentFault: The network fails, or the copy cannot be written.
        ConfigError: Bucket, credentials or endpoint are wrong.
    """
    copy = _Copy(corpus=corpus, folder=copies, audio_column=config.audio_column, store=store)
    try:
        with copy.named():
            copies.mkdir(parents=True)
            is_file = copy.make()
            manifest = open_manifest(copies / corpus.name, config)
    except OSError as error:
        raise as_environment_fault(error, copies) from error
    folder = copy.locate(Path(manifest.folder)) if isinstance(manifest.folder, Path) else manifest.folder
    paths = find_paths(folder, _first_sources(manifest), store) if is_file else _Paths(folder=folder)

    def read() -> Iterator[pa.Table]:
        with copy.named():
            yield from map(paths.mend, manifest.read())

    return replace(
        manifest,
        path=corpus,
        folder=paths.folder,
        read=read,
        notes=(*map(copy.name, manifest.notes), *paths.notes),
        repairs=lambda: [*map(copy.name, manifest.repairs()), *paths.repairs()],
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Copy:
    """A copy of what a user named, in a folder of this machine that stands for the one above it."""

    corpus: Location
    folder: Path
    audio_column: str
    store: ObjectStore

    def make(self) -> bool:
        """Copy; return whether it is one file."""
        is_pattern = "*" in self.corpus.name
        if self.corpus.key and not is_pattern:
            with suppress(FileNotFoundError):
                self._fetch(self.store.head(self.corpus))
                self._fetch_partner()
                return True
        if self.corpus.scheme == "https":
            raise ManifestError(f"{self.corpus}: no such file; folders behind https cannot be listed, so name a file")
        found = list(self.store.list(self.corpus.parent if is_pattern else self.corpus))
        if is_pattern:
            found = [info for info in found if fnmatchcase(str(info.location), str(self.corpus))]
        if not found:
            raise ManifestError(f"{self.corpus}: no such file or folder; give the URL of the corpus")
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            try:
                deque(pool.map(self._fetch, found), maxlen=0)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return False

    def name(self, text: str) -> str:
        """Return a text with URLs in the place of local paths."""
        return text.replace(str(self.folder), str(self.corpus.parent))

    @contextmanager
    def named(self) -> Iterator[None]:
        """Let errors name URLs instead of local paths."""
        try:
            yield
        except ManifestError as error:
            raise ManifestError(self.name(str(error))) from error

    def locate(self, folder: Path) -> Location:
        """Return the folder in object storage that one of the copy stands for."""
        parts = folder.relative_to(self.folder).parts if folder.is_relative_to(self.folder) else ()
        return self.corpus.parent.join(*parts) if parts else self.corpus.parent

    def _fetch_partner(self) -> None:
        """Copy the other file of a manifest of Lhotse that has two, where there is one."""
        for kind, other in _PARTNERS:
            if kind in self.corpus.name:
                with suppress(FileNotFoundError):
                    self._fetch(self.store.head(self.corpus.parent.join(self.corpus.name.replace(kind, other))))

    def _fetch(self, info: ObjectInfo) -> None:
        path = self.folder / PurePosixPath(info.location.key).relative_to(self.corpus.parent.key)
        if ".." in path.parts:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        suffix = path.suffix.lower()
        if suffix == ".parquet" and info.num_bytes:
            self._fetch_parquet(info, path)
        elif suffix in _COPIED_SUFFIXES or info.location == self.corpus:
            with path.open("wb") as file:
                for piece in self.store.stream(info.location, info.num_bytes):
                    file.write(piece)
        else:
            path.touch()

    def _fetch_parquet(self, info: ObjectInfo, path: Path) -> None:
        """Copy a Parquet file without the recordings in it: where they are, the copy has a hole."""
        remote = RangeFile(info, self.store)
        try:
            metadata = pq.ParquetFile(remote, pre_buffer=False).metadata
        except pa.ArrowException as error:
            raise ManifestError(f"{path}: cannot be read as Parquet: {' '.join(str(error).split())}") from error
        embedded = find_audio_column(metadata.schema.to_arrow_schema(), self.audio_column)
        footer = metadata.serialized_size + FOOTER_BYTES
        with path.open("wb") as file:
            ends = ((0, len(MAGIC)), (info.num_bytes - footer, footer))
            for start, num_bytes in (*ends, *column_ranges(metadata, embedded)):
                remote.seek(start)
                file.seek(start)
                while (missing := start + num_bytes - file.tell()) > 0:
                    file.write(remote.read(min(missing, BLOCK_BYTES)))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Paths:
    """Where the recordings of a manifest lie."""

    folder: Location
    """Paths are relative to it."""
    suffix: str = ""
    """Suffix of paths that have none."""
    notes: tuple[str, ...] = ()
    """What was found out."""
    slashed: list[str] = field(default_factory=list)
    """The first path with backslashes."""

    def mend(self, table: pa.Table) -> pa.Table:
        """Return rows whose column ``file`` has what is meant where a path is not quite it."""
        if not self.suffix:
            return table
        members, sources = table.column("member").to_pylist(), table.column("source").to_pylist()
        if all(member is not None for member in members):
            return table
        files = [
            self._mend(source) if member is None else file
            for source, member, file in zip(sources, members, table.column("file").to_pylist(), strict=True)
        ]
        place = table.schema.get_field_index("file")
        return table.set_column(place, table.schema.field("file"), pa.array(files, pa.string()))

    def repairs(self) -> list[str]:
        """Return a note on what was mended so far."""
        return [f"audio paths with backslashes are read with slashes, such as {path!r}" for path in self.slashed]

    def _mend(self, source: str) -> str | None:
        if is_url(source) or (has_suffix(source) and "\\" not in source):
            return None
        if "\\" in source and not self.slashed:
            self.slashed.append(source)
        mended = source.replace("\\", "/")
        return mended if has_suffix(mended) else mended + self.suffix


def find_paths(folder: Location, sources: Sequence[str], store: ObjectStore) -> _Paths:
    """Find out where recordings lie, by asking for the first of them.

    Args:
        folder: Folder of the manifest.
        sources: First audio paths.
        store: Access to them.
    """
    names = [name.replace("\\", "/") for name in sources if name and not name.startswith("/") and not is_url(name)]
    bare = [name for name in names if not has_suffix(name)]
    with ThreadPoolExecutor(_AT_ONCE) as pool:

        def holds_any(place: Location, suffix: str = "") -> bool:
            wanted = [name if has_suffix(name) else name + suffix for name in names[:SAMPLE_PATHS]]
            return any(pool.map(lambda name: _exists(place.resolve(name), store), wanted))

        suffixes = AUDIO_SUFFIXES if bare else AUDIO_SUFFIXES[:1]
        for place in _candidates(folder, store) if names else ():
            for suffix in suffixes:
                if holds_any(place, suffix):
                    notes = [f"audio paths are relative to {place}"] if place != folder else []
                    notes += [f"audio paths without a suffix are read with {suffix}"] if bare else []
                    return _Paths(folder=place, suffix=suffix, notes=tuple(notes))
    return _Paths(folder=folder, suffix=AUDIO_SUFFIXES[0])


def _candidates(folder: Location, store: ObjectStore) -> Iterator[Location]:
    """Yield folders in which the recordings may be: that of the manifest, those in it, those above it."""
    yield folder
    if folder.scheme != "https":
        yield from islice(store.list_folders(folder), _MAX_SUBFOLDERS)
    while folder.key:
        yield (folder := folder.parent)


def _exists(url: str, store: ObjectStore) -> bool:
    try:
        store.head(parse_location(url))
    except (FileNotFoundError, ConfigError):
        return False
    return True


def _first_sources(manifest: Manifest) -> list[str]:
    table = next(manifest.read(), None)
    if table is None:
        return []
    head = table.slice(0, SAMPLE_PATHS)
    return [row["source"] for row in head.select(["source", "member"]).to_pylist() if row["member"] is None]
