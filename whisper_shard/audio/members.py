"""Samples become the audio member of a shard, and back: npy or FLAC.

To add a storage codec, name its encoder in ENCODERS and its decoder in `decode_member`.

Source: numpy.lib.format for npy 1.0.
"""

import io
from collections.abc import Callable, Mapping

import numpy as np
import soundfile
from numpy.typing import NDArray

from whisper_shard.errors import DatasetError
from whisper_shard.utterance import SAMPLE_RATE

NPY_HEADER_BYTES = 128
"""Length of the npy 1.0 header of every 1-D int16 array this package writes."""


def encode_npy(samples: NDArray[np.int16]) -> bytes:
    """Return int16 samples as an npy 1.0 file, header and all."""
    return b"".join((_npy_header(len(samples)), samples.data))


def decode_npy(data: bytes | memoryview, *, num_samples: int) -> NDArray[np.int16]:
    """Return the samples of an npy member without copying; its header must be the one that this package writes.

    Raises:
        DatasetError: The body is not exactly the npy file of ``num_samples`` int16 values.
    """
    expected_bytes = NPY_HEADER_BYTES + 2 * num_samples
    if len(data) != expected_bytes:
        raise DatasetError(f"npy member has {len(data)} bytes, the index promises {expected_bytes}")
    if data[:NPY_HEADER_BYTES] != _npy_header(num_samples):
        raise DatasetError(f"npy member has a header other than that of {num_samples} int16 samples")
    return np.frombuffer(data, "<i2", offset=NPY_HEADER_BYTES)


def _npy_header(num_samples: int) -> bytes:
    fields = f"{{'descr': '<i2', 'fortran_order': False, 'shape': ({num_samples},), }}"
    length = NPY_HEADER_BYTES - 10  # 10 bytes of magic, version and this length come before
    return b"\x93NUMPY\x01\x00" + length.to_bytes(2, "little") + fields.ljust(length - 1).encode() + b"\n"


def encode_flac(samples: NDArray[np.int16]) -> bytes:
    """Return int16 samples at 16 kHz as a FLAC file."""
    file = io.BytesIO()
    soundfile.write(file, samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return file.getvalue()


def encode_wav(samples: NDArray[np.int16]) -> bytes:
    """Return int16 samples at 16 kHz as a wav file, for listening."""
    file = io.BytesIO()
    soundfile.write(file, samples, SAMPLE_RATE, format="WAV", subtype="PCM_16")
    return file.getvalue()


def encode_mp3(samples: NDArray[np.int16]) -> bytes:
    """Return int16 samples at 16 kHz as a small mp3 file that every browser plays, about 3 kB a second."""
    file = io.BytesIO()
    soundfile.write(
        file,
        samples,
        SAMPLE_RATE,
        format="MP3",
        subtype="MPEG_LAYER_III",
        compression_level=0.5,
        bitrate_mode="VARIABLE",
    )
    return file.getvalue()


def decode_flac(data: bytes | memoryview, *, num_samples: int) -> NDArray[np.int16]:
    """Return the samples of a flac member.

    Raises:
        DatasetError: Damaged, or not ``num_samples`` mono samples at 16 kHz.
    """
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as sound:
            found = (sound.format, sound.channels, sound.samplerate, sound.frames)
            if found != ("FLAC", 1, SAMPLE_RATE, num_samples):
                raise DatasetError(
                    f"flac member holds {found}, the index promises {num_samples} mono samples at 16 kHz"
                )
            samples: NDArray[np.int16] = sound.read(dtype="int16")
    except soundfile.SoundFileError as error:
        raise DatasetError(f"flac member cannot be decoded: {' '.join(str(error).split())}") from error
    if len(samples) != num_samples:
        raise DatasetError(f"flac member decodes to {len(samples)} samples, the index promises {num_samples}")
    return samples


ENCODERS: Mapping[str, Callable[[NDArray[np.int16]], bytes]] = {"npy": encode_npy, "flac": encode_flac}
"""How samples become the audio member of a shard, by its suffix."""


def decode_member(data: bytes | memoryview, *, suffix: str, num_samples: int) -> NDArray[np.int16]:
    """Return the samples of a shard's audio member, whichever codec wrote it.

    Raises:
        DatasetError: Damaged, or not what the index promises.
    """
    if suffix == "npy":
        return decode_npy(data, num_samples=num_samples)
    if suffix == "flac":
        return decode_flac(data, num_samples=num_samples)
    raise DatasetError(f"audio member *.{suffix}: this version reads {', '.join(ENCODERS)}")
