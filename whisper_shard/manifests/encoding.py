"""Text files of any encoding, compressed with gzip or not.

UTF-8 is checked from the first byte to the last before anything is read; what is not UTF-8 is read as UTF-16 or as
Windows-1252 (which Latin-1 nearly is) where that is certain enough, with a note, and else refused.
"""

import codecs
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, TextIO, cast

from isal import igzip

from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.errors import ManifestError

HEAD_BYTES = 1 << 16
"""Bytes from the beginning of a manifest by which its format is recognized."""
GZIP_MAGIC = b"\x1f\x8b"
_BLOCK_BYTES = 1 << 20
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_ACCENTED_WORD = re.compile(r"\b(?=[a-zA-Z]*[^\x00-\x7f])[^\W\d_]+\b")
_MAX_ACCENTED = 0.6  # of the letters of words with accents; about 0.3 in French, 1 in Russian or Chinese read wrongly
_SYMBOL_IN_WORD = re.compile("[^\\W\\d_][\u00a2\u00a3\u00a5\u00b1-\u00b3\u00b6\u00b8\u00b9\u00bc-\u00bf][^\\W\\d_]")
_WINDOWS_1252 = "cp1252"


def read_head(path: Path, *, num_bytes: int = HEAD_BYTES) -> bytes:
    """Return the first bytes of a file, decompressed if it is a gzip file.

    Raises:
        ManifestError: It cannot be read, or is no whole gzip file.
        FileNotFoundError: There is no such file.
        IsADirectoryError: It is a folder.
    """
    try:
        with open_bytes(path) as file:
            return file.read(num_bytes)
    except (FileNotFoundError, IsADirectoryError):
        raise
    except (OSError, EOFError) as error:
        raise ManifestError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error


def open_bytes(path: Path) -> BinaryIO:
    """Open a file for reading, through gzip if it is compressed."""
    with path.open("rb") as file:
        is_compressed = file.read(2) == GZIP_MAGIC
    return cast(BinaryIO, igzip.open(path, "rb")) if is_compressed else path.open("rb")


def open_text(path: Path, encoding: str) -> TextIO:
    """Open a file as text, through gzip if it is compressed; line ends are left as they are."""
    return io.TextIOWrapper(cast(io.BufferedReader, open_bytes(path)), encoding=encoding, newline="")


def decode_head(head: bytes, encoding: str) -> str:
    """Return the text of a file's first bytes; a character that is cut off at their end is left out."""
    decoder = codecs.getincrementaldecoder(encoding)(errors="replace")
    return decoder.decode(head, final=False)


def find_encoding(path: Path, head: bytes, config: PrepareConfig) -> tuple[str, list[str]]:
    """Return the encoding of a text file, and a note where it is not UTF-8.

    Args:
        path: The file.
        head: Its first bytes.
        config: Settings; ``encoding`` is believed.

    Raises:
        ManifestError: It is no text, or in an encoding that cannot be told.
    """
    if config.encoding:
        try:
            return codecs.lookup(config.encoding).name, []
        except LookupError as error:
            raise ManifestError(f"--encoding {config.encoding}: no such encoding; try utf-8, cp1252, gbk") from error
    marked = next((name for mark, name in _MARKS if head.startswith(mark)), None) or _find_unmarked_utf16(head)
    if marked is not None:
        return marked, [] if marked == "utf-8-sig" else [_describe(path, marked.upper().replace("_", "-"))]
    if (place := head.find(b"\0")) >= 0:
        raise ManifestError(f"{path}: is not a text file: byte {place} is zero, and it begins with {head[:8]!r}")
    if (fault := _find_fault(path)) is None:
        return "utf-8", []
    if not _is_western(path, fault):
        raise ManifestError(
            f"{path}: is not UTF-8 (byte {fault}), nor clearly in a Western European encoding; "
            "name its encoding: --encoding cp1251, gbk, shift_jis, cp1250, cp1252 ..."
        )
    return _WINDOWS_1252, [f"{_describe(path, 'Windows-1252 (Latin-1)')}; if accents look wrong, give --encoding"]


def _describe(path: Path, encoding: str) -> str:
    return f"{path.name} is read as {encoding}, not UTF-8"


def _find_unmarked_utf16(head: bytes) -> str | None:
    """Recognize UTF-16 without a byte order mark: in most languages every other byte of the markup is zero."""
    even, odd = head[0:1024:2], head[1:1024:2]
    for zeros, others, name in ((odd, even, "utf-16-le"), (even, odd, "utf-16-be")):
        if len(zeros) > 8 and zeros.count(0) > 0.3 * len(zeros) and not others.count(0):
            return name
    return None


def _find_fault(path: Path) -> int | None:
    """Return the place of the first byte that is not UTF-8, or None."""
    decoder, place = codecs.getincrementaldecoder("utf-8")(), 0
    try:
        for block in _blocks(path):
            pending = len(decoder.getstate()[0])
            decoder.decode(block)
            place += len(block)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        return max(0, place - pending + error.start)
    return None


def _blocks(path: Path) -> Iterator[bytes]:
    try:
        with open_bytes(path) as file:
            while block := file.read(_BLOCK_BYTES):
                yield block
    except (OSError, EOFError) as error:
        raise ManifestError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _is_western(path: Path, place: int) -> bool:
    """Return whether the text around a byte that is not UTF-8 looks like one in Windows-1252."""
    with open_bytes(path) as file:
        file.seek(max(0, place - _BLOCK_BYTES // 16))
        sample = file.read(_BLOCK_BYTES // 4)
    try:
        text = sample.decode(_WINDOWS_1252)
    except UnicodeDecodeError:
        return False
    letters = "".join(_ACCENTED_WORD.findall(text))
    num_accented = sum(not letter.isascii() for letter in letters)
    return num_accented <= _MAX_ACCENTED * len(letters) and not _SYMBOL_IN_WORD.search(text)
