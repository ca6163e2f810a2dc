"""Whether a FLAC file ends where its header says.

The decoder verifies the checksum of every frame, and the number of samples is compared with the header. What both miss
is a header that counts fewer samples than the file holds: then the last frame has another number than the header's.

The header also has an MD5 of all samples. Comparing it would take a fifth of the time of decoding, to find nothing more
than frames that have right checksums and wrong samples.

Source: RFC 9639, sections 8.2 (STREAMINFO) and 9.1 (frame header).
"""

import re
from dataclasses import dataclass
from typing import BinaryIO

from whisper_shard.audio.content import skip_id3

_STREAMINFO_BYTES = 34
_TAG_BYTES = 1 << 12  # behind the last frame
_LONGEST_FRAME = 1 << 16  # where the header does not say


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamInfo:
    """What the header of a FLAC file says of its frames."""

    block_size: int
    """Samples of a frame, the last one's excepted; 0: it varies."""
    max_frame_bytes: int
    """Length of the longest frame; 0: unknown."""
    num_samples: int
    """Samples of one channel; 0: unknown, as in a stream that was written live."""


def read_stream_info(file: BinaryIO) -> StreamInfo | None:
    """Return the header of a FLAC file, or None where it has none; the file's position is lost."""
    file.seek(skip_id3(file))
    head = file.read(8 + _STREAMINFO_BYTES)
    # The first metadata block must be STREAMINFO, type 0; the highest bit marks the last block.
    if head[:4] != b"fLaC" or len(head) < 8 + _STREAMINFO_BYTES or head[4] & 0x7F:
        return None
    smallest, largest, max_frame_bytes = (int.from_bytes(head[a:b], "big") for a, b in ((8, 10), (10, 12), (15, 18)))
    return StreamInfo(
        block_size=largest if smallest == largest else 0,
        max_frame_bytes=max_frame_bytes,
        num_samples=int.from_bytes(head[21:26], "big") & (1 << 36) - 1,
    )


def ends_with_last_frame(file: BinaryIO, info: StreamInfo) -> bool:
    """Return whether the frame with the last sample that the header counts is at the end of the file.

    True, too, where the header does not say enough. The file's position is lost.
    """
    if not info.block_size or not info.num_samples:
        return True
    num_bytes = file.seek(0, 2)
    file.seek(max(0, num_bytes - (info.max_frame_bytes or _LONGEST_FRAME) - _TAG_BYTES))
    number, end = (info.num_samples - 1) // info.block_size, file.read()
    # The sync code of frames of one size, two bytes of codes, then the number.
    last = re.search(rb"\xff\xf8.." + re.escape(_encode_number(number)), end, re.DOTALL)
    if last is None:
        return False
    # Rate and bits a sample, the lower halves of the codes, are those of all frames.
    codes = b"".join(b"[%b]" % re.escape(bytes(high << 4 | code & 0xF for high in range(16))) for code in last[0][2:4])
    return re.search(rb"\xff\xf8" + codes + re.escape(_encode_number(number + 1)), end[last.end() :]) is None


def _encode_number(number: int) -> bytes:
    """Return a frame's number as its header has it: UTF-8, extended to 36 bits."""
    if number < 0x80:
        return bytes([number])
    num_following = next(n for n in range(1, 7) if number < 1 << (6 * n + max(6 - n, 0)))
    first = (0xFF00 >> (num_following + 1)) & 0xFF | number >> 6 * num_following
    return bytes([first, *(0x80 | number >> 6 * n & 0x3F for n in reversed(range(num_following)))])
