"""One shard: an uncompressed tar of utterances that plain WebDataset reads and any utterance can be picked from.

Each utterance is two adjacent members, ``<key>.npy`` (int16 little-endian, 1-D, npy format 1.0, 16 kHz) or
``<key>.flac``, then ``<key>.json`` (text, seconds and all that is known of it). The same utterances always give the
same bytes: times are 0, owners are 0, the order is the order of writing.

Source: POSIX.1-1988 (USTAR) for the headers; numpy.lib.format for npy 1.0.
"""

import json
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whisper_shard.errors import DatasetError
from whisper_shard.formats.storage import HashingFile

BLOCK = 512
"""Tar headers and member bodies come in blocks of this many bytes."""
NPY_HEADER_BYTES = 128
"""Length of the npy 1.0 header of every 1-D int16 array this package writes."""
_TAR_REST = b"0".ljust(101, b"\0") + b"ustar\x0000" + bytes(64 + 16 + 167)
_TAR_REST_SUM = sum(_TAR_REST) + sum(b"00000000000")
KEY_PATTERN = re.compile(r"[A-Za-z0-9_-]{1,90}")
"""No dot: WebDataset cuts a member's name at its first dot, and would merge ``a.b`` with ``a.c``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexRow:
    """Where one utterance lies, and what one must know before reading it: a row of index.parquet."""

    shard: int
    """Number of the shard in dataset.json, from 0."""
    row: int
    """Position in the shard, from 0."""
    key: str
    """Unique name."""
    audio_offset: int
    """Byte at which the audio member's body begins in the tar."""
    audio_bytes: int
    """Length of that body."""
    json_offset: int
    """Byte at which the json member's body begins."""
    json_bytes: int
    """Length of that body."""
    audio_crc32: int
    """zlib.crc32 of the audio body."""
    json_crc32: int
    """zlib.crc32 of the json body."""
    num_samples: int
    """Length of the waveform at 16 kHz."""
    num_chars: int
    """Length of the normalized text in code points."""
    text: str
    """Normalized text."""
    language: str | None
    """BCP-47 tag or None."""
    speaker: str | None
    """Speaker or None."""
    task: str | None
    """``transcribe``, ``translate`` or None."""
    source: str
    """Audio path as the manifest gave it."""


class ShardWriter:
    """Append utterances to a tar that is being written, and remember where each one went."""

    def __init__(self, file: HashingFile, *, shard: int) -> None:
        self._file = file
        self._shard = shard
        self.rows: list[IndexRow] = []

    def add(self, *, key: str, audio: bytes, suffix: str, num_samples: int, record: Mapping[str, Any]) -> IndexRow:
        """Write one utterance as two members.

        Args:
            key: Unique name matching KEY_PATTERN.
            audio: Encoded waveform, as `encode_npy` or a codec gives it.
            suffix: Suffix of the audio member, without dot: ``npy`` or ``flac``.
            num_samples: Length of the waveform.
            record: What goes into the json member; ``text`` is required.

        Raises:
            DatasetError: The key cannot be stored.
        """
        if not KEY_PATTERN.fullmatch(key):
            raise DatasetError(f"key {key!r} cannot be stored: use 1 to 90 of A-Z a-z 0-9 _ - (no dot)")
        text = json.dumps(record, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()
        audio_offset = self._file.num_bytes + BLOCK
        json_offset = audio_offset + len(audio) + len(_padding(audio)) + BLOCK
        json_header = tar_header(f"{key}.json", len(text))
        # The small pieces go together: each costs more to write alone than to copy.
        end = b"".join((_padding(audio), json_header, text, _padding(text)))
        self._file.write(tar_header(f"{key}.{suffix}", len(audio)), audio, end)
        row = IndexRow(
            shard=self._shard,
            row=len(self.rows),
            key=key,
            audio_offset=audio_offset,
            audio_bytes=len(audio),
            json_offset=json_offset,
            json_bytes=len(text),
            # isal's crc32 is quicker, but resampling after it costs far more than it saves (measured: a fifth).
            audio_crc32=zlib.crc32(audio),
            json_crc32=zlib.crc32(text),
            num_samples=num_samples,
            num_chars=len(record["text"]),
            text=record["text"],
            language=record.get("language"),
            speaker=record.get("speaker"),
            task=record.get("task"),
            source=record.get("source", ""),
        )
        self.rows.append(row)
        return row

    def close(self) -> None:
        """Write the end of the archive: two empty blocks."""
        self._file.write(bytes(2 * BLOCK))


def tar_header(name: str, num_bytes: int) -> bytes:
    """Return the one USTAR header there is for a regular file of this name and size: no time, no owner.

    Ten times faster than tarfile.TarInfo.tobuf, which gives the same bytes.

    Args:
        name: At most 100 ASCII characters.
        num_bytes: Below 8 GiB.
    """
    head = name.encode("ascii").ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2 + b"%011o\0" % num_bytes
    # The checksum counts itself as 8 spaces.
    checksum = sum(head) + _TAR_REST_SUM + 8 * 32
    return b"%s00000000000\0%06o\0 %s" % (head, checksum, _TAR_REST)


def _padding(body: bytes) -> bytes:
    """Return what fills the last block of a member."""
    return bytes(-len(body) % BLOCK)


def encode_npy(samples: NDArray[np.int16]) -> bytes:
    """Return int16 samples as an npy 1.0 file, header and all."""
    return b"".join((_npy_header(len(samples)), samples.data))


def decode_npy(data: bytes | memoryview, *, num_samples: int) -> NDArray[np.int16]:
    """Return the samples of an npy member without copying; trust nothing it says of itself.

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


def to_int16(waveform: NDArray[np.float32], *, overwrite: bool = False, is_within: bool = False) -> NDArray[np.int16]:
    """Scale [-1, 1] to int16, rounding to nearest; what lies outside is clipped.

    Args:
        waveform: Any shape.
        overwrite: It is not needed any more and may serve as scratch space, which is faster.
        is_within: No sample is outside of [-1, 1], so that there is nothing to clip.
    """
    scaled = np.multiply(waveform, np.float32(32767.0), out=waveform if overwrite else None)
    np.rint(scaled, out=scaled)
    if not is_within:
        np.clip(scaled, -32768, 32767, out=scaled)
    return scaled.astype("<i2")
