"""The AudioFolder of Hugging Face's `datasets`: recordings, and the list ``metadata.csv``, ``.jsonl`` or ``.parquet``.

Without a list, the folders are classes. Where the class is what is said (digits, commands), it can be asked for with
``--manifest-format audiofolder``; it is never assumed, since folders may as well be speakers.

Source: https://huggingface.co/docs/datasets/audio_dataset
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.errors import ManifestError
from whisper_shard.manifests.columns import Columns
from whisper_shard.manifests.csv import Csv
from whisper_shard.manifests.encoding import read_head
from whisper_shard.manifests.folders import choose_split, find_split, walk_files
from whisper_shard.manifests.json import Json
from whisper_shard.manifests.manifest import Manifest
from whisper_shard.manifests.parquet import Parquet
from whisper_shard.manifests.paths import PathFinder, has_audio_suffix
from whisper_shard.manifests.table import Line, make_tables

READERS: Mapping[str, type[Csv | Json | Parquet]] = {
    "metadata.csv": Csv,
    "metadata.jsonl": Json,
    "metadata.parquet": Parquet,
}
"""Names of the list, and what reads it."""
COLUMNS = Columns(audio="audio", text="text")


class AudioFolder:
    """A folder of recordings with a list; see `formats.ManifestFormat`."""

    def recognizes(self, path: Path, _head: bytes, /) -> bool:
        """Return whether there is a list, in the folder or in those of its splits."""
        return path.is_dir() and bool(_find_lists(path))

    def open(self, path: Path, _head: bytes, config: PrepareConfig, /) -> Manifest:
        """Open the list with the reader of its format, or take the folders for transcripts."""
        if not (files := _find_lists(path)):
            return _open_classes(path)
        notes = _describe_mixture(path) if files[0].parent == path else []
        if files[0].parent != path:
            parts, notes = choose_split(path, [file.parent for file in files])
            files = [file for file in files if file.parent in parts]
        if len(files) > 1:
            raise ManifestError(f"{path}: holds several lists; name one: {', '.join(map(str, files))}")
        manifest = READERS[files[0].name]().open(files[0], read_head(files[0]), config)
        return replace(manifest, path=path, format="audiofolder", notes=(*manifest.notes, *notes))


def _find_lists(path: Path) -> list[Path]:
    """Return the lists of a folder, or those of its subfolders if it has none."""
    own = [path / name for name in READERS if (path / name).is_file()]
    return own or [file for name in READERS for file in sorted(path.glob(f"*/{name}"))]


def _describe_mixture(path: Path) -> list[str]:
    """Return a note if a list may name recordings of other splits than that for training."""
    others = [
        folder.name for folder in sorted(path.iterdir()) if folder.is_dir() and find_split(Path(folder.name)) != "train"
    ]
    return [f"everything in its list is read, also what lies in {' and '.join(others)}"] if others else []


def _open_classes(path: Path) -> Manifest:
    names = [file.relative_to(path).as_posix() for file in walk_files(path, has_audio_suffix)]
    words = sorted({name.split("/")[-2] for name in names if "/" in name})
    if not words:
        raise ManifestError(f"{path}: holds neither metadata.csv, metadata.jsonl nor folders with recordings in them")
    shown = ", ".join(map(repr, words[:5])) + (" ..." if len(words) > 5 else "")
    return Manifest(
        path=path,
        format="audiofolder",
        folder=path,
        read=lambda: make_tables(COLUMNS, _read_classes(names), PathFinder(path)),
        digest=lambda: hashlib.sha256("\n".join(names).encode(errors="surrogateescape")).hexdigest(),
        notes=(f"{path.name} has no list: the names of its {len(words)} folders are the transcripts: {shown}",),
    )


def _read_classes(names: list[str]) -> Iterator[Line]:
    for name in names:
        folder = name.rpartition("/")[0].rpartition("/")[2]
        fault = None if folder else ("missing_transcript", "it lies in no folder that could say what is said")
        yield Line({"audio": name, "text": folder.replace("_", " ")}, fault)
