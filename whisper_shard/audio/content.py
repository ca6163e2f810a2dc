"""A file's first bytes say which of FFmpeg's demuxers may open it.

FFmpeg would choose by itself, and among its choices are texts that name other files, hosts and ports: SDP makes it
listen on a UDP port, HLS, DASH, concat and ASX make it open what they list. So only the demuxers below are ever used,
each for files that begin like one of its own. All of them read one file from front to back.
"""

from typing import BinaryIO, NamedTuple

HEAD_BYTES = 256
"""Bytes at the beginning of a file that decoders see before they claim it."""
_SEARCHED_BYTES = 1 << 16
_TS_PACKET_BYTES = 188  # each begins with "G"
_BY_BEGINNING: tuple[tuple[int, bytes, str], ...] = (
    (4, b"ftyp", "mov"),
    (4, b"moov", "mov"),
    (4, b"mdat", "mov"),
    (4, b"wide", "mov"),
    (0, b"\x1aE\xdf\xa3", "matroska"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "asf"),
    (0, b"#!AMR", "amr"),
    (0, b"OggS", "ogg"),
    (8, b"WAVE", "wav"),
    (8, b"AVI ", "avi"),
    (8, b"AIFC", "aiff"),
    (8, b"AIFF", "aiff"),
    (0, b"caff", "caf"),
    (0, b"riff\x2e\x91\xcf\x11", "w64"),
    (0, b".snd", "au"),
    (0, b"FLV\x01", "flv"),
    (0, b"\x00\x00\x01\xba", "mpeg"),
    (0, b"\x0b\x77", "ac3"),
    (0, b"wvpk", "wv"),
    (0, b"MAC ", "ape"),
    (0, b"TTA1", "tta"),
    (0, b"MPCK", "mpc8"),
    (0, b"MP+", "mpc"),
)
"""(offset, bytes found there, name of the demuxer)"""
_ONLY_FFMPEG = frozenset({"mov", "matroska", "asf", "amr", "aac"})
_NOT_MPEG = (b"fLaC", b"RIFF", b"FORM", b"RF64")  # what begins like this is no mp3, whatever comes behind
_KBIT = {
    (True, 1): (0, *range(32, 449, 32)),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}  # by whether it is MPEG-1, and layer; layer III of MPEG-2 has the bit rates of layer II


def find_demuxer(head: bytes) -> str | None:
    """Return the demuxer for a file that begins with ``head``, or None where none may open it.

    Tags and whatever else comes before the first frame are not skipped; see `find_demuxer_of_file`.
    """
    for offset, magic, name in _BY_BEGINNING:
        if head.startswith(magic, offset):
            return name
    if head[:1] == head[_TS_PACKET_BYTES : _TS_PACKET_BYTES + 1] == b"G":
        return "mpegts"
    if _read_mpeg_header(head) is not None:
        return "mp3"
    # ADTS: twelve ones, then a layer of 0. Source: ISO/IEC 13818-7, section 6.2.
    return "aac" if len(head) > 1 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0 else None


def find_demuxer_of_file(file: BinaryIO) -> str | None:
    """Return the demuxer for an open file, whose position is lost.

    An ID3 tag is skipped, and so is the rest of a frame in front of the first whole one of an mp3 stream.
    """
    file.seek(0)
    name = find_demuxer(head := file.read(HEAD_BYTES))
    if name is not None or head.startswith(_NOT_MPEG):
        return name
    file.seek(skip_id3(file))
    start = file.read(_SEARCHED_BYTES)
    if (name := find_demuxer(start)) in ("mp3", "aac"):
        return name
    return "mp3" if _has_mpeg_frames(start) else None


def _has_mpeg_frames(data: bytes) -> bool:
    """Return whether three MPEG audio frames of one kind follow each other somewhere."""
    position = data.find(b"\xff")
    while position >= 0:
        following, kind = position, None
        for _ in range(3):
            header = _read_mpeg_header(data[following : following + 4])
            if header is None or not header.num_bytes or kind not in (None, header.kind):
                break
            following, kind = following + header.num_bytes, header.kind
        else:
            return True
        position = data.find(b"\xff", position + 1)
    return False


class _MpegHeader(NamedTuple):
    kind: tuple[int, int, int]  # codes of version, layer and sampling rate
    num_bytes: int  # of the frame; 0: free format, whose frames do not say


def _read_mpeg_header(head: bytes) -> _MpegHeader | None:
    """Read the header of an MPEG audio frame, layer I, II or III. Source: ISO/IEC 11172-3, 2.4.1.3, and 13818-3."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    version, layer = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3)
    bit_rate, rate, padding = head[2] >> 4, head[2] >> 2 & 3, head[2] >> 1 & 1
    if version == 1 or layer == 4 or rate == 3 or bit_rate == 15:
        return None
    is_1 = version == 3
    hertz = (44_100, 48_000, 32_000)[rate] >> (0 if is_1 else 1 if version == 2 else 2)
    kbit = _KBIT[is_1, layer if is_1 or layer == 1 else 2][bit_rate]
    per_frame = 12 if layer == 1 else 144 if is_1 or layer == 2 else 72
    num_bytes = (per_frame * kbit * 1000 // hertz + padding) * (4 if layer == 1 else 1) if kbit else 0
    return _MpegHeader(kind=(version, layer, rate), num_bytes=num_bytes)


def is_only_for_ffmpeg(head: bytes) -> bool:
    """Return whether libsndfile has no use for a file that begins like this."""
    return find_demuxer(head) in _ONLY_FFMPEG


def skip_id3(file: BinaryIO) -> int:
    """Return where an ID3v2 tag at the beginning of the file ends, 0 where there is none. Position is lost.

    Source: https://id3.org/id3v2.4.0-structure, section 3.1: the size has 7 bits a byte.
    """
    file.seek(0)
    head = file.read(10)
    if head[:3] != b"ID3" or len(head) < 10:
        return 0
    has_footer = head[5] & 0x10
    size = sum((byte & 0x7F) << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))
    return 10 + size + (10 if has_footer else 0)
