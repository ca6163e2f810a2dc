"""One shard: an uncompressed tar of utterances that plain WebDataset reads and any utterance can be read from.

Each utterance is two adjacent members, ``<key>.npy`` (int16 little-endian, 1-D, npy format 1.0, 16 kHz) or
``<key>.flac``, then ``<key>.json`` (text, seconds and the columns of the manifest). The same utterances always give the
same bytes: times are 0, owners are 0, the order is the order of writing.

Source: POSIX.1-1988 (USTAR) for the headers.
"""

import json
import zlib
from collections.abc import Mapping
from typing import Any

from whisper_shard.dataset.schema import KEY_PATTERN, IndexRow
from whisper_shard.errors import DatasetError
from whisper_shard.storage.atomic import HashingFile

BLOCK = 512
"""Tar headers and member bodies come in blocks of this many bytes."""
MAX_MEMBER_BYTES = 1 << 26
"""Longest body that is read: 34 minutes of audio."""
MAX_FOREIGN_BYTES = 1 << 30
"""Longest audio body in a tar that others wrote: its format is theirs, and many utterances may be segments of it."""
_TAR_REST = b"0".ljust(101, b"\0") + b"ustar\x0000" + bytes(64 + 16 + 167)
_TAR_REST_SUM = sum(_TAR_REST) + sum(b"00000000000")


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
