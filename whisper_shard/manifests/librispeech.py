"""The folders of LibriSpeech: ``train-clean-100/103/1240/103-1240.trans.txt`` beside ``103-1240-0000.flac``.

Source: https://www.openslr.org/12
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.errors import ManifestError
from whisper_shard.manifests.columns import Columns
from whisper_shard.manifests.folders import choose_split, find_first, find_suffix, read_lines, walk_files
from whisper_shard.manifests.manifest import Manifest, digest_files
from whisper_shard.manifests.paths import PathFinder
from whisper_shard.manifests.table import Line, make_tables
from whisper_shard.report.quantities import describe_number

COLUMNS = Columns(audio="audio", text="text", speaker="speaker")


class LibriSpeech:
    """LibriSpeech and corpora laid out like it; see `formats.ManifestFormat`."""

    def recognizes(self, path: Path, _head: bytes, /) -> bool:
        """Return whether there is a file of transcripts."""
        return path.is_dir() and find_first(path, _is_transcripts) is not None

    def open(self, path: Path, _head: bytes, _config: PrepareConfig, /) -> Manifest:
        """Find the files of transcripts."""
        folders, notes = _find_parts(path)
        files = [file for folder in folders for file in walk_files(folder, _is_transcripts)]
        if not files:
            raise ManifestError(f"{path}: holds no *.trans.txt, as LibriSpeech has them")
        finder = PathFinder(path)
        suffix = find_suffix(finder, str(files[0].parent.relative_to(path) / _first_id(files[0])), ".flac")
        count = describe_number(len(files), "file")
        read = f"{path.name} is laid out as LibriSpeech: {count} of transcripts, recordings {suffix}"
        return Manifest(
            path=path,
            format="librispeech",
            folder=path,
            read=lambda: make_tables(COLUMNS, _read(path, files, suffix), finder),
            digest=lambda: digest_files(path, files),
            notes=(read, *notes),
        )


def _find_parts(path: Path) -> tuple[list[Path], list[str]]:
    """Return the folders to read: of the whole corpus, only those for training."""
    parts = [part for part in sorted(path.iterdir()) if part.is_dir() and find_first(part, _is_transcripts)]
    # Speakers are numbers; only the corpus as a whole has folders such as train-clean-100 in it.
    return ([path], []) if all(part.name.isdecimal() for part in parts) else choose_split(path, parts)


def _is_transcripts(name: str) -> bool:
    return name.endswith(".trans.txt")


def _first_id(file: Path) -> str:
    return next(read_lines(file), "").partition(" ")[0]


def _read(path: Path, files: Sequence[Path], suffix: str) -> Iterator[Line]:
    for file in files:
        folder = file.parent.relative_to(path).as_posix()
        for line in read_lines(file):
            name, _, text = line.partition(" ")
            yield Line({"audio": f"{folder}/{name}{suffix}", "text": text, "speaker": name.split("-")[0], "id": name})
