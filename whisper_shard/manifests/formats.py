"""The formats a manifest may have; each reads it in batches that any other part of `prepare` understands.

To add a format, write a class with `recognizes` and `open` in a module of its own and add it to FORMATS.
"""

from pathlib import Path
from typing import Protocol

from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.errors import ConfigError, ManifestError, suggest
from whisper_shard.manifests.audiofolder import AudioFolder
from whisper_shard.manifests.common_voice import CommonVoice
from whisper_shard.manifests.csv import Csv
from whisper_shard.manifests.encoding import read_head
from whisper_shard.manifests.json import Json
from whisper_shard.manifests.kaldi import Kaldi
from whisper_shard.manifests.lhotse import Lhotse
from whisper_shard.manifests.librispeech import LibriSpeech
from whisper_shard.manifests.ljspeech import LJSpeech
from whisper_shard.manifests.manifest import Manifest
from whisper_shard.manifests.mls import Mls
from whisper_shard.manifests.parquet import Parquet, expand_pattern
from whisper_shard.manifests.recordings import Recordings
from whisper_shard.manifests.subtitles import Subtitles
from whisper_shard.manifests.voxpopuli import VoxPopuli


class ManifestFormat(Protocol):
    """One format of manifests."""

    def recognizes(self, path: Path, head: bytes, /) -> bool:
        """Return whether a file is of this format, by its name or its first bytes.

        Args:
            path: A file or a folder.
            head: Its first bytes, decompressed if it is a gzip file; of a folder, nothing.
        """
        ...

    def open(self, path: Path, head: bytes, config: PrepareConfig, /) -> Manifest:
        """Check the columns and return the manifest; its rows are read later.

        Args:
            path: As above.
            head: As above.
            config: Settings: columns, encoding.

        Raises:
            ManifestError: The manifest cannot be used.
        """
        ...


FORMATS: dict[str, ManifestFormat] = {
    "kaldi": Kaldi(),
    "lhotse": Lhotse(),
    "librispeech": LibriSpeech(),
    "ljspeech": LJSpeech(),
    "common_voice": CommonVoice(),
    "mls": Mls(),
    "voxpopuli": VoxPopuli(),
    "audiofolder": AudioFolder(),
    "subtitles": Subtitles(),
    "parquet": Parquet(),
    "json": Json(),
    "recordings": Recordings(),
    "csv": Csv(),
}
"""Tried in this order. CSV comes last: it takes any file, and its errors say what is wrong with one that is not CSV."""


def open_manifest(path: Path, config: PrepareConfig) -> Manifest:
    """Recognize a manifest and check it, without reading its rows.

    Raises:
        ConfigError: ``manifest_format`` is no format.
        ManifestError: No such file or folder, of no known format, or without the columns.
    """
    if config.manifest_format and config.manifest_format not in FORMATS:
        hint = suggest(config.manifest_format, list(FORMATS))
        raise ConfigError(f"--manifest-format {config.manifest_format}: must be one of {', '.join(FORMATS)}{hint}")
    head = _read_head(path)
    if config.manifest_format:
        return FORMATS[config.manifest_format].open(path, head, config)
    for manifest_format in FORMATS.values():
        if manifest_format.recognizes(path, head):
            return manifest_format.open(path, head, config)
    found = sorted(path.glob("*.csv"))
    hint = f"did you mean {found[0]}?" if found else "it holds neither recordings nor a list of some"
    raise ManifestError(f"{path}: is a folder in no layout that is known; {hint} (docs/corpora.md)")


def _read_head(path: Path) -> bytes:
    files = expand_pattern(path)
    try:
        return read_head(files[0] if files else path)
    except IsADirectoryError:
        return b""
    except FileNotFoundError as error:
        raise ManifestError(f"{path}: no such file; give the path of the corpus") from error
