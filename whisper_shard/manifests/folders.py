"""What the corpora that are folders have in common: a look into them, their splits, and their transcripts."""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from whisper_shard.errors import ManifestError
from whisper_shard.manifests.encoding import open_text
from whisper_shard.manifests.paths import AUDIO_SUFFIXES, PathFinder

SPLITS: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""Words by which the split of a file is known, in its name or that of a folder.

Source: datasets.data_files, https://huggingface.co/docs/datasets/repository_structure
"""
_NOT_A_WORD = re.compile(r"[^a-z0-9]+")
_MAX_ENTRIES = 20_000


def find_first(folder: Path, matches: Callable[[str], bool]) -> Path | None:
    """Return a file below a folder whose name matches, or None if none is found soon.

    The search goes down before it goes on, so it finds what lies in every subfolder without reading all of them.
    """
    waiting, num_entries = [folder], 0
    while waiting and num_entries < _MAX_ENTRIES:
        folders = []
        for name, is_folder in _list(waiting.pop()):
            num_entries += 1
            if is_folder:
                folders.append(Path(name))
            elif matches(os.path.basename(name)):  # noqa: PTH119 - a Path costs ten times as much
                return Path(name)
        waiting += reversed(folders)
    return None


def walk_files(folder: Path, matches: Callable[[str], bool]) -> Iterator[Path]:
    """Yield all files below a folder whose name matches, in the order of their paths."""
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders.sort()
        yield from (Path(parent, name) for name in sorted(names) if matches(name))


def find_split(path: Path) -> str:
    """Return the split that a relative path names, ``train`` if it names none."""
    for part in reversed(path.with_suffix("").parts):
        words = set(_NOT_A_WORD.split(part.lower()))
        for split, names in SPLITS.items():
            if words & set(names):
                return split
    return "train"


def choose_split(path: Path, candidates: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """Return what belongs to the training split, and a note on how to evaluate on each of the others.

    Args:
        path: What the user named.
        candidates: Files or folders below it, of all splits.

    Raises:
        ManifestError: None is for training.
    """
    chosen = [found for found in candidates if find_split(found.relative_to(path)) == "train"]
    others = [found for found in candidates if found not in chosen]
    if not chosen:
        raise ManifestError(f"{path}: no split is called train; name one of {', '.join(map(str, others))}")
    return chosen, [f"{found.name} is not read; to evaluate on it: --eval-corpus {found}" for found in others]


def find_suffix(finder: PathFinder, stem: str, default: str) -> str:
    """Return the suffix of a recording that is named without one, ``default`` if there is no such file."""
    return next((suffix for suffix in AUDIO_SUFFIXES if finder.exists(stem + suffix)), default)


def read_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a UTF-8 file, plain or compressed with gzip, without their ends; empty ones are left out.

    Raises:
        ManifestError: It cannot be read, or is not UTF-8; names the line.
    """
    number = 0
    try:
        with open_text(path, "utf-8-sig") as file:
            for number, line in enumerate(file, 1):  # noqa: B007 - the error names the last one
                if text := line.rstrip("\r\n"):
                    yield text
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path}: a line after {number} is not UTF-8; convert it with iconv") from error
    except (OSError, EOFError) as error:
        raise ManifestError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _list(folder: Path) -> list[tuple[str, bool]]:
    try:
        with os.scandir(folder) as entries:
            return sorted((entry.path, entry.is_dir()) for entry in entries)
    except OSError:
        return []
