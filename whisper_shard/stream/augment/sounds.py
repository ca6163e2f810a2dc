"""A bank of sounds, background noise or impulse responses, that all loader processes share through the page cache.

It is made of a dataset, which is read in place, or of a folder of audio files, which are decoded once into one file
of samples that every process maps into its memory.
"""

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from whisper_shard.audio.decoders import DECODERS
from whisper_shard.audio.files import read_recording
from whisper_shard.audio.resample import resample
from whisper_shard.audio.samples import to_int16
from whisper_shard.dataset.description import DATASET_NAME
from whisper_shard.dataset.index import open_dataset
from whisper_shard.dataset.reader import decode_audio, open_reader
from whisper_shard.dataset.sources.open import open_source
from whisper_shard.errors import AudioError, ConfigError, DatasetError
from whisper_shard.storage.atomic import atomic_file, write_json

SUFFIXES = frozenset(["wav", "flac", "mp3", "ogg", "opus", "m4a", "aac", "aiff", "aif"])
"""Files of a folder that go into its bank."""
MAX_SOUND_SECONDS = 600.0
"""Longer recordings are refused: cut them first."""


class Bank(Protocol):
    """Sounds by number."""

    def __len__(self) -> int:
        """Return how many there are."""
        ...

    def sound(self, number: int) -> NDArray[np.int16] | NDArray[np.float32]:
        """Return one of them at 16 kHz; not to be written to."""
        ...


class DatasetBank:
    """The utterances of a dataset."""

    def __init__(self, folder: Path) -> None:
        dataset = open_dataset(folder)
        self._count = dataset.num_utterances
        self._reader = open_reader(dataset, open_source(dataset))

    def __len__(self) -> int:
        """Return how many there are."""
        return self._count

    def sound(self, number: int) -> NDArray[np.int16] | NDArray[np.float32]:
        """Return one of them at 16 kHz."""
        return decode_audio(self._reader.read(number))


class FolderBank:
    """The audio files of a folder and its folders, decoded once into ``bank-<fingerprint>.npy`` beside them."""

    def __init__(self, folder: Path) -> None:
        files = sorted(path for path in folder.rglob("*") if path.suffix.lower().removeprefix(".") in SUFFIXES)
        path = folder / f"bank-{_fingerprint(folder, files)}.npy"
        if not path.exists():
            _write_bank(path, files)
        self._ends = np.cumsum([0, *json.loads(path.with_suffix(".json").read_bytes())["num_samples"]])
        self._samples = np.load(path, mmap_mode="r", allow_pickle=False)
        if self._samples.dtype != np.int16 or self._samples.shape != (self._ends[-1],):
            raise DatasetError(f"{path}: is not the bank its json file describes; remove both files")

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._ends) - 1

    def sound(self, number: int) -> NDArray[np.int16]:
        """Return one of them at 16 kHz, where it lies."""
        sound: NDArray[np.int16] = self._samples[self._ends[number] : self._ends[number + 1]]
        return sound


@cache
def open_bank(path: str) -> Bank:
    """Open the bank of a dataset or of a folder of audio files; once a process.

    Raises:
        ConfigError: No such folder, or no sound in it.
        DatasetError: A damaged bank or dataset.
        EnvironmentFault: The bank of the folder cannot be written.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise ConfigError(f"augment: bank {path!r} is not a folder; give a dataset or a folder of audio files")
    bank = DatasetBank(folder) if (folder / DATASET_NAME).is_file() else FolderBank(folder)
    if not len(bank):
        raise ConfigError(f"augment: bank {path!r} has no audio; looked for *.{', *.'.join(sorted(SUFFIXES))}")
    return bank


def _fingerprint(folder: Path, files: list[Path]) -> str:
    lines = [f"{path.relative_to(folder)}\0{(status := path.stat()).st_size}\0{status.st_mtime_ns}" for path in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _write_bank(path: Path, files: list[Path]) -> None:
    sounds = [_read_sound(file) for file in files]
    write_json(
        path.with_suffix(".json"), {"files": [file.name for file in files], "num_samples": list(map(len, sounds))}
    )
    with atomic_file(path) as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<i2", "fortran_order": False, "shape": (sum(map(len, sounds)),)}
        )
        for sound in sounds:
            file.write(sound.tobytes())


def _read_sound(path: Path) -> NDArray[np.int16]:
    decoders = [make() for make in DECODERS.values()]
    try:
        recording = read_recording(str(path), decoders=decoders, max_seconds=MAX_SOUND_SECONDS)
    except AudioError as error:
        raise ConfigError(f"augment: bank: {path}: {error}; repair or remove the file") from error
    return to_int16(resample(recording.waveform, recording.sample_rate))
