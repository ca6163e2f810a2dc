"""Recordings without any text: a file, or a folder with files in it and in its subfolders.

With ``--segment vad`` they become utterances whose texts come later, from a model.
"""

import hashlib
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.errors import ManifestError
from whisper_shard.manifests.columns import ADVICE, ROLES, Columns
from whisper_shard.manifests.folders import find_first, read_lines, walk_files
from whisper_shard.manifests.manifest import Manifest
from whisper_shard.manifests.paths import SAMPLE_PATHS, PathFinder, find_folder, has_audio_suffix
from whisper_shard.manifests.table import Line, make_tables
from whisper_shard.report.quantities import describe_number
from whisper_shard.storage.atomic import sha256_of_file

COLUMNS = Columns(audio="audio", text="")
_DELIMITER = re.compile(r"[,;|\t]")
_LISTS = (".csv", ".tsv", ".jsonl", ".json", ".parquet")


class Recordings:
    """A recording, a folder of recordings, or a list of their paths; see `formats.ManifestFormat`."""

    def recognizes(self, path: Path, head: bytes, /) -> bool:
        """Return whether it is a recording by its name, a folder with one in it, or has a path in each line."""
        if path.is_dir():
            return find_first(path, has_audio_suffix) is not None
        return has_audio_suffix(path.name) or _is_list(head)

    def open(self, path: Path, _head: bytes, config: PrepareConfig, /) -> Manifest:
        """List the files."""
        if not path.is_dir() and not has_audio_suffix(path.name):
            return _open_list(path, config)
        is_folder = path.is_dir()
        folder = path if is_folder else path.parent
        if is_folder and not self.recognizes(path, b""):
            raise ManifestError(f"{path}: holds no recording (files that end in .wav, .flac, .mp3, .m4a ...)")
        lists = sorted(file for ending in _LISTS for file in path.glob(f"*{ending}")) if is_folder else []
        if config.segment == "none":
            what = "a folder of recordings" if is_folder else "a recording"
            hint = f"did you mean {lists[0]}?" if lists else ADVICE
            raise _no_text(path, what, hint)
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


def _is_list(head: bytes) -> bool:
    """Return whether each line, but for a heading, is the path of a recording and nothing else."""
    lines = [line for line in head.decode("utf-8", "replace").splitlines() if line.strip()][:SAMPLE_PATHS]
    paths = lines[1:] if lines and lines[0].strip().lower() in ROLES["audio"] else lines
    return bool(paths) and all(has_audio_suffix(line.strip()) and not _DELIMITER.search(line) for line in paths)


def _open_list(path: Path, config: PrepareConfig) -> Manifest:
    if config.segment == "none":
        raise _no_text(path, "a list of recordings", ADVICE)

    def read() -> Iterator[str]:
        lines = filter(None, map(str.strip, read_lines(path)))
        return (line for number, line in enumerate(lines) if number or line.lower() not in ROLES["audio"])

    folder, prefix, place = find_folder(path.parent, list(islice(read(), SAMPLE_PATHS)))
    finder = PathFinder(folder, prefix)
    return Manifest(
        path=path,
        format="recordings",
        folder=folder,
        read=lambda: make_tables(COLUMNS, (Line({"audio": name}) for name in read()), finder),
        digest=lambda: sha256_of_file(path),
        notes=(f"{path.name} is a list of recordings without a text", *place),
        repairs=finder.notes,
    )


def _no_text(path: Path, what: str, hint: str) -> ManifestError:
    return ManifestError(f"{path}: is {what}, and does not tell what is said; {hint} (docs/corpora.md)")


def _read(names: list[str]) -> Iterator[Line]:
    return (Line({"audio": name}) for name in names)
