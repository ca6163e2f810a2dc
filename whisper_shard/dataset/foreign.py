"""Tars that others wrote, read once from the first byte to the last: names, places and checksums of their members.

A tar is untrusted. Python's tarfile takes a damaged header for the end of the archive, follows negative sizes in a
circle, expands sparse members and decompresses by content; plain WebDataset inherits all of that. Here each header is
checked before anything in it is believed, and whatever is not a plain file is an error that names its byte. Names are
text, never paths. Nothing is decompressed or unpickled.

Known headers: POSIX.1-1988 (ustar), the older format without a magic, the extended headers of POSIX.1-2001 (pax: path
and size) and the long names and large sizes of GNU tar.

Source: POSIX.1-2017, pax, "ustar Interchange Format"; GNU tar manual, "Basic Tar Format".
"""

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from isal.isal_zlib import crc32

from whisper_shard.dataset.shard import BLOCK
from whisper_shard.errors import DatasetError

MAX_NAME_BYTES = 1 << 16
"""Longest GNU name of a member that is read."""
MAX_PAX_BYTES = 1 << 20
"""Longest extended header that is read."""
READ_BYTES = 8 << 20
"""Bytes read at a time."""
_NUL = b"\0"
_REFUSED = {
    b"1": "a hard link; write the file itself (GNU tar: --hard-dereference)",
    b"2": "a symbolic link; write the file itself (GNU tar: --dereference)",
    b"3": "a device",
    b"4": "a device",
    b"6": "a pipe",
    b"K": "a link with a long name; write the file itself (GNU tar: --dereference)",
    b"S": "a sparse file; write it whole",
}
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
}
_OCTAL = re.compile(rb" *([0-7]+)[ \0]*")
_PAX_RECORD = re.compile(rb"([0-9]{1,7}) ([^=\n]+)=", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A file in a tar."""

    name: str
    """As the tar spells it; bytes that are not UTF-8 are shown as ``\\\\xff``."""
    offset: int
    """Byte at which its body begins."""
    num_bytes: int
    """Length of its body."""
    crc32: int
    """zlib.crc32 of its body."""
    body: bytes | None
    """Its body, where it was asked for."""


class TarReader:
    """Reads one tar from its begin to its end and hashes it on the way."""

    def __init__(self, read: Callable[[int, int], bytes | memoryview], num_bytes: int, *, name: str) -> None:
        """Begin at the first byte.

        Args:
            read: Returns exactly so many bytes (second argument) from a byte (first).
            num_bytes: Length of the tar.
            name: For errors.
        """
        self._read = read
        self._num_bytes = num_bytes
        self._name = name
        self._buffer = memoryview(b"")
        self._position = 0
        self._sha256 = hashlib.sha256()

    @property
    def sha256(self) -> str:
        """Hexadecimal digest of what has been read; of the whole tar once `members` is exhausted."""
        return self._sha256.hexdigest()

    def members(self, *, keep: Callable[[str, int], bool]) -> Iterator[Member]:
        """Yield the files of the tar in order; folders are left out.

        Args:
            keep: Tells by name and length whether a member's body should be returned.

        Raises:
            DatasetError: It is not a tar, it is cut off or damaged, or it holds something that is not a plain file.
        """
        long_name, pax = b"", dict[str, bytes]()
        while (header := self._next_header()) is not None:
            kind, start = header[156:157], self._position - BLOCK
            num_bytes = self._number(header[124:136], start, "size")
            if kind in (b"L", b"x", b"g"):
                content = self._take_short(num_bytes, MAX_NAME_BYTES if kind == b"L" else MAX_PAX_BYTES, start)
                if kind == b"L":
                    long_name = content.partition(_NUL)[0]
                elif kind == b"x":
                    pax = self._parse_pax(content, start)
                elif {"path", "size"} & self._parse_pax(content, start).keys():
                    raise self._fault(start, "gives all members one name or size")
                continue
            if "size" in pax:
                num_bytes = self._pax_size(pax["size"], start)
            name = _decode(pax.get("path") or long_name or _ustar_name(header))
            long_name, pax = b"", {}
            if kind == b"5" or (kind in (b"0", _NUL) and name.endswith("/")):
                if num_bytes:
                    raise self._fault(start, f"{name!a} is a folder of {num_bytes} bytes")
            elif kind not in (b"0", _NUL, b"7"):
                raise self._fault(start, f"{name!a} is {_REFUSED.get(kind, f'of the unknown type {kind!r}')}")
            else:
                yield self._take_member(name, num_bytes, start, is_kept=keep(name, num_bytes))
        if long_name or pax:
            raise self._fault(self._position, "ends after the long name or extended header of a member")

    def _next_header(self) -> bytes | None:
        """Return the next header, checked; None at the end mark, which must be followed by zeros only."""
        start = self._position
        if self._num_bytes - start < BLOCK:
            raise self._fault(start, "ends without the end mark of a tar: it is cut off")
        header = bytes(self._take(BLOCK))
        if header == bytes(BLOCK):
            self._check_end(start)
            return None
        if start == 0 and (found := next((n for m, n in _COMPRESSED.items() if header[: len(m)] == m), None)):
            raise self._fault(start, f"is compressed with {found}; decompress it first: members are read in place")
        total = sum(header) - sum(header[148:156]) + 8 * ord(" ")
        if self._number(header[148:156], start, "checksum") != total:
            raise self._fault(start, "is no tar header: its checksum is wrong; the tar is damaged, or is no tar")
        return header

    def _check_end(self, start: int) -> None:
        """Read to the end of the file."""
        if self._num_bytes - start < 2 * BLOCK:
            raise self._fault(start, "ends within the end mark of a tar: it is cut off")
        while (rest := self._num_bytes - self._position) > 0:
            if any(self._take(min(rest, READ_BYTES))):
                raise self._fault(start, "has something after its end mark; are these several tars in one file?")

    def _take_member(self, name: str, num_bytes: int, start: int, *, is_kept: bool) -> Member:
        self._check_fits(num_bytes, start, name)
        offset, checksum, pieces = self._position, 0, list[bytes]()
        while (rest := offset + num_bytes - self._position) > 0:
            piece = self._take(min(rest, READ_BYTES))
            checksum = crc32(piece, checksum)
            if is_kept:
                pieces.append(bytes(piece))
        self._take(-num_bytes % BLOCK)
        body = b"".join(pieces) if is_kept else None
        return Member(name=name, offset=offset, num_bytes=num_bytes, crc32=checksum, body=body)

    def _take_short(self, num_bytes: int, limit: int, start: int) -> bytes:
        """Return the body of a header that belongs to the next member."""
        if num_bytes > limit:
            raise self._fault(start, f"is an extended header of {num_bytes} bytes, limit {limit}")
        self._check_fits(num_bytes, start, "an extended header")
        return bytes(self._take(num_bytes + -num_bytes % BLOCK)[:num_bytes])

    def _check_fits(self, num_bytes: int, start: int, name: str) -> None:
        if num_bytes + -num_bytes % BLOCK > self._num_bytes - self._position:
            raise self._fault(
                start, f"{name!a} has {num_bytes} bytes by its header, {self._num_bytes - self._position} are left"
            )

    def _number(self, data: bytes, start: int, what: str) -> int:
        """Return a number in octal digits, or in the binary form of GNU tar, whose first byte is 0x80."""
        if data[0] == 0x80:
            return int.from_bytes(data[1:], "big")
        if match := _OCTAL.fullmatch(data):
            return int(match[1], 8)
        raise self._fault(start, f"has the {what} {data!r}, which is no number a tar can hold")

    def _parse_pax(self, content: bytes, start: int) -> dict[str, bytes]:
        """Return the records of an extended header: ``LENGTH KEY=VALUE`` with a line end, LENGTH counting all of it."""
        records, position = dict[str, bytes](), 0
        while position < len(content) and content[position:].strip(_NUL):
            match = _PAX_RECORD.match(content, position)
            end = position + int(match[1]) if match else 0
            if match is None or end > len(content) or end <= match.end() or content[end - 1 : end] != b"\n":
                raise self._fault(start, "has an extended header that cannot be read")
            key = _decode(match[2])
            if key.startswith("GNU.sparse"):
                raise self._fault(start, f"describes {_REFUSED[b'S']}")
            records[key] = content[match.end() : end - 1]
            position = end
        return records

    def _pax_size(self, value: bytes, start: int) -> int:
        if not re.fullmatch(rb"[0-9]{1,18}", value):
            raise self._fault(start, f"has the size {value[:40]!r} in its extended header")
        return int(value)

    def _take(self, num_bytes: int) -> memoryview:
        """Return the next bytes, at most READ_BYTES, that are known to be there."""
        while len(self._buffer) < num_bytes:
            begin = self._position + len(self._buffer)
            piece = self._read(begin, min(READ_BYTES, self._num_bytes - begin))
            self._buffer = memoryview(b"".join((self._buffer, piece)) if self._buffer else piece)
        taken, self._buffer = self._buffer[:num_bytes], self._buffer[num_bytes:]
        self._position += num_bytes
        self._sha256.update(taken)
        return taken

    def _fault(self, start: int, what: str) -> DatasetError:
        return DatasetError(f"{self._name}: byte {start}: {what}")


def _ustar_name(header: bytes) -> bytes:
    name = header[:100].partition(_NUL)[0]
    # GNU tar ("ustar  ") keeps other things in the place of the prefix.
    is_posix = header[257:263] == b"ustar\0"
    prefix = header[345:500].partition(_NUL)[0] if is_posix else b""
    return prefix + b"/" + name if prefix else name


def _decode(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")
