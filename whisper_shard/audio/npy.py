"""The npy files of others: one waveform as an array. The sampling rate is not in the file and must be known.

Source: numpy.lib.format, versions 1.0 and 2.0.
"""

import math
import os
import re
from typing import BinaryIO

import numpy as np

from whisper_shard.audio.recording import Recording
from whisper_shard.errors import AudioError
from whisper_shard.utterance import Waveform

_MAGIC = b"\x93NUMPY"
_LENGTH_BYTES = {b"\x01\x00": 2, b"\x02\x00": 4}  # by version
_MAX_HEADER_BYTES = 4_096
# NumPy reads the header with Python's parser, which fails in many ways on what is not a header. This is its only form.
_HEADER = re.compile(
    rb"\{'descr': '([<>|][a-zA-Z]\d*)', 'fortran_order': (?:True|False), 'shape': \(((?:\d{1,15}(?:, |,|))*)\), \}\s*"
)
_FULL_SCALE = {"i2": 1 << 15, "f4": 1, "f8": 1}
"""The value of 1.0 in each kind of samples that is read."""


class NpyDecoder:
    """A one-dimensional array of int16, float32 or float64; (1, N) and (N, 1) count as such."""

    def __init__(self, sample_rate: int) -> None:
        self._sample_rate = sample_rate

    def claims(self, head: bytes, _suffix: str, /) -> bool:
        """Claim npy files."""
        return head.startswith(_MAGIC)

    def decode(self, file: BinaryIO, *, max_seconds: float) -> Recording:
        """Read the array, after its header and the length of the file have been compared; nothing is unpickled.

        Raises:
            AudioError: Another kind of array, of other length than its header says, or longer than ``max_seconds``.
        """
        kind, shape = _read_header(file)
        if kind[1:] not in _FULL_SCALE:
            raise AudioError(f"npy array of {kind!r}: it must be int16, float32 or float64")
        num_samples = max(shape, default=0)
        if not shape or math.prod(shape) != num_samples:
            raise AudioError(f"npy array of shape {shape}: it must have one dimension")
        if num_samples > max_seconds * self._sample_rate:
            seconds = num_samples / self._sample_rate
            raise AudioError(f"{seconds:.1f} s, limit {max_seconds:g} s", reason="recording_too_long")
        promised, start = num_samples * int(kind[2:]), file.tell()
        if (present := file.seek(0, os.SEEK_END) - start) != promised:
            raise AudioError(f"its npy header promises {promised} bytes, {present} are there", reason="truncated")
        file.seek(start)
        samples = np.frombuffer(file.read(promised), kind)
        waveform: Waveform = np.multiply(samples, 1 / _FULL_SCALE[kind[1:]], dtype=np.float32, casting="same_kind")
        return Recording(waveform=waveform, sample_rate=self._sample_rate)


def _read_header(file: BinaryIO) -> tuple[str, tuple[int, ...]]:
    """Return the kind of samples, as NumPy writes it, and the shape."""
    start = file.read(len(_MAGIC) + 2)
    if (width := _LENGTH_BYTES.get(start[-2:])) is None or not start.startswith(_MAGIC):
        raise AudioError(f"npy file of the unknown version {start[len(_MAGIC) :]!r}")
    num_bytes = int.from_bytes(file.read(width), "little")
    match = _HEADER.fullmatch(file.read(num_bytes)) if num_bytes <= _MAX_HEADER_BYTES else None
    if match is None:
        raise AudioError("npy header cannot be read, or describes no simple array")
    return match[1].decode(), tuple(map(int, re.findall(rb"\d+", match[2])))
