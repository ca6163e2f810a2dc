"""The folder of LJSpeech: ``metadata.csv`` with bars and without a header, beside ``wavs/``.

Its lines are ``LJ001-0001|transcription|normalized transcription``; many corpora for speech synthesis have two of them.

Source: https://keithito.com/LJ-Speech-Dataset
"""

from collections.abc import Iterator
from pathlib import Path

from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.errors import ManifestError
from whisper_shard.manifests.columns import Columns
from whisper_shard.manifests.encoding import read_head
from whisper_shard.manifests.folders import find_suffix, read_lines
from whisper_shard.manifests.manifest import Manifest
from whisper_shard.manifests.paths import PathFinder, has_audio_suffix
from whisper_shard.manifests.table import Line, make_tables
from whisper_shard.storage.atomic import sha256_of_file

NAMES = ("id", "transcription", "normalized_transcription")
"""The columns, which the file does not name."""
_FOLDER = "wavs"


class LJSpeech:
    """LJSpeech and corpora laid out like it; see `formats.ManifestFormat`."""

    def recognizes(self, path: Path, _head: bytes, /) -> bool:
        """Return whether ``wavs/`` lies beside a list with bars, whose first field is no file name."""
        file = _find_list(path)
        if not file.is_file() or not (file.parent / _FOLDER).is_dir():
            return False
        name, bar, _ = read_head(file).split(b"\n")[0].decode("utf-8-sig", errors="replace").partition("|")
        return bool(bar) and not has_audio_suffix(name) and " " not in name and name.lower() not in ("id", "file_name")

    def open(self, path: Path, _head: bytes, config: PrepareConfig, /) -> Manifest:
        """Choose the column of transcripts: the normalized one, where numbers are words, if there is one."""
        file = _find_list(path)
        if not file.is_file():
            raise ManifestError(f"{path}: holds no metadata.csv, as LJSpeech has it")
        first = next(read_lines(file), "").split("|")
        names = NAMES[: len(first)]
        text = config.text_column or names[-1]
        if len(first) not in (2, 3) or text not in names[1:]:
            raise ManifestError(
                f"{file}: its first line has {len(first)} fields between bars; LJSpeech has {', '.join(NAMES)} "
                f"(--text-column {text})"
            )
        finder = PathFinder(file.parent, f"{_FOLDER}/")
        suffix = find_suffix(PathFinder(file.parent), f"{_FOLDER}/{first[0]}", ".wav")
        columns = Columns(audio="audio", text=text)
        read = f"{file.name} is laid out as LJSpeech: recordings in {_FOLDER}/, transcripts from {text!r}"
        other = f"; for those as printed: --text-column {names[1]}" if text == NAMES[2] else ""
        return Manifest(
            path=path,
            format="ljspeech",
            folder=file.parent,
            read=lambda: make_tables(columns, _read(file, names, suffix), finder),
            digest=lambda: sha256_of_file(file),
            notes=(read + other,),
            repairs=finder.notes,
        )


def _find_list(path: Path) -> Path:
    return path / "metadata.csv" if path.is_dir() else path


def _read(file: Path, names: tuple[str, ...], suffix: str) -> Iterator[Line]:
    for line in read_lines(file):
        fields = line.split("|")
        fault = ("malformed_row", f"{len(fields)} fields, the first line has {len(names)}")
        values = {"audio": fields[0] + suffix, **dict(zip(names, fields, strict=False))}
        yield Line(values, None if len(fields) == len(names) else fault)
