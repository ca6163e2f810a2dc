"""The folders of Multilingual LibriSpeech: ``train/transcripts.txt``, and ``train/audio/12/34/12_34_000000.flac``.

Source: https://www.openslr.org/94
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.errors import ManifestError
from whisper_shard.manifests.columns import Columns
from whisper_shard.manifests.folders import choose_split, find_suffix, read_lines
from whisper_shard.manifests.manifest import Manifest, digest_files
from whisper_shard.manifests.paths import PathFinder
from whisper_shard.manifests.table import Line, make_tables

COLUMNS = Columns(audio="audio", text="text", speaker="speaker")
_LIST = "transcripts.txt"


class Mls:
    """A language, or one of its splits; see `formats.ManifestFormat`."""

    def recognizes(self, path: Path, _head: bytes, /) -> bool:
        """Return whether there are transcripts beside a folder ``audio``."""
        return bool(_find_lists(path))

    def open(self, path: Path, _head: bytes, _config: PrepareConfig, /) -> Manifest:
        """Find the transcripts."""
        files = _find_lists(path)
        if not files:
            raise ManifestError(f"{path}: holds no {_LIST} beside audio/, as Multilingual LibriSpeech does")
        folder, notes = (path, list[str]()) if path.is_dir() else (path.parent, list[str]())
        if len(files) > 1:
            parts, notes = choose_split(folder, [file.parent for file in files])
            files = [part / _LIST for part in parts]
        finder = PathFinder(folder)
        first = next(read_lines(files[0]), "").partition("\t")[0]
        suffix = find_suffix(finder, f"{_place(folder, files[0])}{_locate(first)}", ".flac")
        read = (
            f"{path.name} is laid out as Multilingual LibriSpeech: transcripts of {_names(files)}, recordings {suffix}"
        )
        return Manifest(
            path=path,
            format="mls",
            folder=folder,
            read=lambda: make_tables(COLUMNS, _read(folder, files, suffix), finder),
            digest=lambda: digest_files(folder, files),
            notes=(read, *notes),
        )


def _find_lists(path: Path) -> list[Path]:
    """Return the files of transcripts: the one named, that of a split, or those of all splits."""
    candidates = [path] if path.is_file() else [path / _LIST, *sorted(path.glob(f"*/{_LIST}"))]
    return [file for file in candidates if file.name == _LIST and file.is_file() and (file.parent / "audio").is_dir()]


def _names(files: Sequence[Path]) -> str:
    return ", ".join(file.parent.name for file in files)


def _place(folder: Path, file: Path) -> str:
    return "audio/" if file.parent == folder else f"{file.parent.relative_to(folder).as_posix()}/audio/"


def _locate(name: str) -> str:
    """Return where a recording lies: in a folder of its speaker, and in that one of its book."""
    return "/".join([*name.split("_")[:2], name])


def _read(folder: Path, files: Sequence[Path], suffix: str) -> Iterator[Line]:
    for file in files:
        place = _place(folder, file)
        for line in read_lines(file):
            name, tab, text = line.partition("\t")
            values = {
                "audio": f"{place}{_locate(name)}{suffix}",
                "text": text,
                "speaker": name.split("_")[0],
                "id": name,
            }
            yield Line(values, None if tab else ("malformed_row", "no tab between name and transcript"))
