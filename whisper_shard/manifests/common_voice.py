"""The folder of a language of Common Voice: ``validated.tsv`` and other lists beside ``clips/``.

A single list of it (``train.tsv``) is an ordinary table, whose recordings are found in ``clips/``.

Source: https://github.com/common-voice/cv-dataset
"""

from dataclasses import replace
from pathlib import Path

from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.errors import ManifestError
from whisper_shard.manifests.csv import Csv
from whisper_shard.manifests.encoding import read_head
from whisper_shard.manifests.manifest import Manifest

LISTS = ("validated.tsv", "train.tsv")
"""Lists of recordings for training, in order of preference."""


class CommonVoice:
    """The folder of a language; see `formats.ManifestFormat`."""

    def recognizes(self, path: Path, _head: bytes, /) -> bool:
        """Return whether it has ``clips/`` and a list."""
        return (path / "clips").is_dir() and any((path / name).is_file() for name in LISTS)

    def open(self, path: Path, _head: bytes, config: PrepareConfig, /) -> Manifest:
        """Open the list as a table."""
        file = next((path / name for name in LISTS if (path / name).is_file()), None)
        if file is None:
            raise ManifestError(f"{path}: holds none of {', '.join(LISTS)}, as a language of Common Voice does")
        manifest = Csv().open(file, read_head(file), config)
        notes = [f"{path.name} is a language of Common Voice: {file.name} is read"]
        if file.name == LISTS[0] and (path / "test.tsv").is_file():
            notes.append(
                f"{file.name} has the clips of dev.tsv and test.tsv in it; to evaluate on those, prepare "
                f"{path / 'train.tsv'} with --eval-corpus {path / 'test.tsv'}"
            )
        return replace(manifest, path=path, format="common_voice", notes=(*notes, *manifest.notes))
