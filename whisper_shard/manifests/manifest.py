"""A manifest that has been recognized and checked, ready to be read."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from whisper_shard.storage.atomic import sha256_of_file
from whisper_shard.storage.location import Location


def _nothing() -> list[str]:
    return []


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A list of recordings and transcripts, in one file or several."""

    path: Path | Location
    """What the user named: a file or a folder."""
    format: str
    """Name of its format."""
    folder: Path | Location
    """Folder to which audio paths are relative."""
    read: Callable[[], Iterator[pa.Table]]
    """Returns an iterator over all rows, as tables in MANIFEST_SCHEMA, from the beginning.

    The iterator raises ManifestError at what makes the rest unreadable; a row that is unusable has a reason.
    """
    digest: Callable[[], str]
    """Returns a digest of everything that decides the rows; for one file, its sha256."""
    notes: tuple[str, ...] = ()
    """What was assumed, for people: encoding, delimiter, columns."""
    repairs: Callable[[], list[str]] = _nothing
    """Returns what had to be mended so far while reading: paths with backslashes and the like."""


def digest_files(folder: Path, files: Iterable[Path]) -> str:
    """Return a digest of the names, relative to a folder, and the contents of files in their order."""
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.relative_to(folder).as_posix()}\n{sha256_of_file(path)}\n".encode())
    return digest.hexdigest()
