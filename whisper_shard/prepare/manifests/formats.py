"""The formats a manifest may have; each reads it in batches that any other part of `prepare` understands.

To add a format, write a class with `recognizes` and `read` in a module of its own and add it to FORMATS.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.errors import ManifestError
from whisper_shard.prepare.manifests.csv import Csv

HEAD_BYTES = 1 << 16
"""Bytes from the beginning of a manifest by which its format is recognized."""


class ManifestFormat(Protocol):
    """One format of manifests."""

    def recognizes(self, path: Path, head: bytes, /) -> bool:
        """Tell whether a file is of this format, by its name or its first HEAD_BYTES bytes."""
        ...

    def read(self, path: Path, head: bytes, /, *, audio_column: str, text_column: str) -> Iterator[pa.Table]:
        """Check the columns at once, then return an iterator over all rows as tables in MANIFEST_SCHEMA.

        Args:
            path: The manifest.
            head: Its first bytes.
            audio_column: Column of audio paths; empty: the first with one of the usual names.
            text_column: Column of transcripts; empty: the first with one of the usual names.

        Raises:
            ManifestError: The manifest cannot be used.
        """
        ...


FORMATS: dict[str, ManifestFormat] = {"csv": Csv()}
"""Tried in this order. CSV comes last: it takes any file, and its errors say what is wrong with one that is not CSV."""


def read_manifest(path: Path, config: PrepareConfig) -> Iterator[pa.Table]:
    """Check the header of a manifest at once, then return an iterator over its rows, as tables in MANIFEST_SCHEMA.

    Raises:
        ManifestError: No such file, of no known format, or without the columns; while iterating: a malformed line.
    """
    head = _read_head(path)
    found = next(manifest_format for manifest_format in FORMATS.values() if manifest_format.recognizes(path, head))
    return found.read(path, head, audio_column=config.audio_column, text_column=config.text_column)


def _read_head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(HEAD_BYTES)
    except FileNotFoundError as error:
        raise ManifestError(f"{path}: no such file; give the path of the corpus CSV") from error
    except IsADirectoryError as error:
        found = sorted(path.glob("*.csv"))
        hint = f"; did you mean {found[0]}?" if found else ""
        raise ManifestError(f"{path}: is a folder, not a CSV file{hint}") from error
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read: {error.strerror}") from error
