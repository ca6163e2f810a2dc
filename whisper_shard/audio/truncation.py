"""A file is cut off if it is shorter than its container says, where the container says how long it is.

Decoders are content with what is there. These checks read a few headers and no audio. To add a container, write a
function that returns how many bytes it promises, or None where it does not say, and name it in `find_cut`.

Source: RFC 3533 (Ogg), RFC 8794 (EBML), ISO/IEC 14496-12 (boxes of mp4 and m4a), EBU Tech 3306 (RF64), Apple Core Audio
Format Specification 1.0 (CAF); Sony Wave64; Microsoft, Advanced Systems Format Specification 1.20 (wma).
"""

import struct
from collections.abc import Callable
from typing import BinaryIO

HEADER_BYTES = 64
"""Enough of a file's beginning to know its container."""
MAX_BOXES = 1_000
"""Boxes that are looked at; a file with more of them is not checked."""
_SLACK_BYTES = 64  # some writers of RF64 and W64 count the header twice
_UNKNOWN_BYTES = 1 << 60
_MAX_PAGE_BYTES = 27 + 255 + 255 * 255
_LAST_PAGE = 0x04
_UNKNOWN_RIFF_BYTES = 0x7FFF_F000  # this and more is what writers leave that could not go back to fill in the length
_ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_ASF_HEADER_BYTES = 1 << 16  # of the header are searched for the properties
_EBML_ID, _SEGMENT_ID = b"\x1aE\xdf\xa3", b"\x18\x53\x80\x67"


def find_cut(file: BinaryIO) -> str | None:
    """Return in which way a file is shorter than its container says, or None where it is whole or nothing is said.

    Args:
        file: Open for reading, seekable; its position is lost.
    """
    num_bytes = file.seek(0, 2)
    file.seek(0)
    head = file.read(HEADER_BYTES)
    if head[:4] == b"OggS":
        return _find_cut_in_ogg(file, num_bytes)
    if head[:4] in (b"RF64", b"BW64"):
        promised = _promise_of_rf64(head)
    elif head[:4] == b"riff":
        promised = _promise_of_w64(head)
    elif head[:4] == b"caff":
        promised = _promise_of_boxes(file, num_bytes, 8, _caf_chunk)
    elif head[4:8] == b"ftyp":
        promised = _promise_of_boxes(file, num_bytes, 0, _iso_box)
    elif head[:4] == _EBML_ID:
        promised = _promise_of_ebml(head)
    elif head[:16] == _ASF_HEADER:
        promised = _promise_of_asf(file)
    elif head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        promised = _promise_of_avi(head)
    else:
        return None
    if promised is None or not num_bytes < promised < _UNKNOWN_BYTES:
        return None
    return f"cut off: the container promises {promised} bytes, {num_bytes} are there"


def _find_cut_in_ogg(file: BinaryIO, num_bytes: int) -> str | None:
    """Look at the last page: it must be whole, and marked as the last of its stream."""
    file.seek(max(0, num_bytes - _MAX_PAGE_BYTES))
    tail = file.read()
    page = tail[max(tail.rfind(b"OggS"), 0) :]
    num_segments = page[26] if len(page) > 26 else 0
    lengths = page[27 : 27 + num_segments]
    if len(page) < 27 or len(lengths) < num_segments or len(page) < 27 + num_segments + sum(lengths):
        return "cut off: its last Ogg page is not whole"
    return None if page[5] & _LAST_PAGE else "cut off: its last Ogg page is not marked as the end of the stream"


def _promise_of_rf64(head: bytes) -> int | None:
    if head[12:16] != b"ds64" or len(head) < 28:
        return None
    riff_bytes: int = struct.unpack_from("<Q", head, 20)[0]
    return riff_bytes + 8 - _SLACK_BYTES


def _promise_of_w64(head: bytes) -> int | None:
    return struct.unpack_from("<Q", head, 16)[0] - _SLACK_BYTES if len(head) >= 24 else None


def _promise_of_avi(head: bytes) -> int | None:
    riff_bytes: int = struct.unpack_from("<I", head, 4)[0]
    return riff_bytes + 8 if 0 < riff_bytes < _UNKNOWN_RIFF_BYTES else None


def _promise_of_asf(file: BinaryIO) -> int | None:
    """Return the length in the file properties object of a wma file; None where it was broadcast."""
    file.seek(0)
    header = file.read(_ASF_HEADER_BYTES)
    found = header.find(_ASF_PROPERTIES)
    if found < 0 or len(header) < found + 104:
        return None
    num_bytes: int = struct.unpack_from("<Q", header, found + 40)[0]
    is_broadcast = struct.unpack_from("<I", header, found + 88)[0] & 1
    return None if is_broadcast else num_bytes


def _promise_of_boxes(
    file: BinaryIO, num_bytes: int, position: int, read_header: Callable[[bytes], int | None]
) -> int | None:
    """Go from box to box; return where the last one ends."""
    for _ in range(MAX_BOXES):
        if position >= num_bytes:
            return position
        file.seek(position)
        length = read_header(file.read(16))
        if length is None:
            return None
        position += length
    return None


def _iso_box(header: bytes) -> int | None:
    """Return the length of a box; None: up to the end of the file, or no box."""
    if len(header) < 8 or not header[4:8].isascii():
        return None
    short: int = struct.unpack_from(">I", header)[0]
    if short == 1 and len(header) == 16:
        long: int = struct.unpack_from(">Q", header, 8)[0]
        return long if long >= 16 else None
    return short if short >= 8 else None


def _caf_chunk(header: bytes) -> int | None:
    """Return the length of a chunk, its header of 12 bytes included; None: up to the end of the file, or no chunk."""
    if len(header) < 12:
        return None
    length: int = struct.unpack_from(">q", header, 4)[0]
    return 12 + length if length >= 0 else None


def _promise_of_ebml(head: bytes) -> int | None:
    """Return where the segment of a webm or mkv file ends; streams that are written live do not say."""
    ebml = _ebml_length(head, 4)
    if ebml is None:
        return None
    segment = ebml[0] + ebml[1]
    if head[segment : segment + 4] != _SEGMENT_ID:
        return None
    found = _ebml_length(head, segment + 4)
    return None if found is None else found[0] + found[1]


def _ebml_length(head: bytes, position: int) -> tuple[int, int] | None:
    """Return where an element's body begins and its length; None: unknown, or beyond what was read."""
    if position >= len(head) or not head[position]:
        return None
    width = 9 - head[position].bit_length()
    field = head[position : position + width]
    if len(field) < width:
        return None
    length = int.from_bytes(field, "big") & ((1 << 7 * width) - 1)
    return None if length == (1 << 7 * width) - 1 else (position + width, length)
