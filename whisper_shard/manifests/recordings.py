"""Recordings without any text: a file, or a folder with files in it and in its subfolders.

With ``--segment vad`` they become utterances whose texts come later, from a model.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.errors import ManifestError
from whisper_shard.manifests.columns import ADVICE, Columns
from whisper_shard.manifests.folders import find_first, walk_files
from whisper_shard.manifests.manifest import Manifest
from whisper_shard.manifests.paths import PathFinder, has_audio_suffix
from whisper_shard.manifests.table import Line, make_tables
from whisper_shard.report.quantities import describe_number

COLUMNS = Columns(audio="audio", text="")
_LISTS = (".csv", ".tsv", ".jsonl", ".json", ".parquet")


class Recordings:
    """A recording, or a folder of recordings; see `formats.ManifestFormat`."""

    def recognizes(self, path: Path, _head: bytes, /) -> bool:
        """Return whether it is a recording by its name, or a folder with one in it."""
        return find_first(path, has_audio_suffix) is not None if path.is_dir() else has_audio_suffix(path.name)

    def open(self, path: Path, _head: bytes, config: PrepareConfig, /) -> Manifest:
        """List the files."""
        is_folder = path.is_dir()
        folder = path if is_folder else path.parent
        if is_folder and not self.recognizes(path, b""):
            raise ManifestError(f"{path}: holds no recording (files that end in .wav, .flac, .mp3, .m4a ...)")
        lists = sorted(file for ending in _LISTS for file in path.glob(f"*{ending}")) if is_folder else []
        if config.segment == "none":
            what = "a folder of recordings" if is_folder else "a recording"
            hint = f"did you mean {lists[0]}?" if lists else ADVICE
            raise ManifestError(f"{path}: is {what}, and does not tell what is said; {hint} (docs/corpora.md)")
        names = [file.relative_to(folder).as_posix() for file in walk_files(path, has_audio_suffix)]
        names = names if is_folder else [path.name]
        ignored = [f"{file.name} is not read; name it instead of its folder if it has texts" for file in lists[:3]]
        return Manifest(
            path=path,
            format="recordings",
            folder=folder,
            read=lambda: make_tables(COLUMNS, _read(names), PathFinder(folder)),
            digest=lambda: hashlib.sha256("\n".join(names).encode(errors="surrogateescape")).hexdigest(),
            notes=(f"{path.name} is {describe_number(len(names), 'recording')} without a text", *ignored),
        )


def _read(names: list[str]) -> Iterator[Line]:
    return (Line({"audio": name}) for name in names)
