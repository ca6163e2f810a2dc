"""Tars of others are read exactly as tarfile reads sound ones, and every hostile one is refused in one line."""

import gzip
import hashlib
import io
import random
import resource
import tarfile
import time
import zlib

import pytest

from whisper_shard.dataset import foreign
from whisper_shard.dataset.foreign import TarReader
from whisper_shard.errors import DatasetError

BLOCK = 512


def read(data, *, keep=lambda name, num_bytes: True):
    def read_at(offset, num_bytes):
        assert 0 < num_bytes <= len(data) - offset
        return data[offset : offset + num_bytes]

    reader = TarReader(read_at, len(data), name="x.tar")
    members = list(reader.members(keep=keep))
    assert reader.sha256 == hashlib.sha256(data).hexdigest()
    return members


def header(name=b"a.wav", *, size=b"00000000005\0", kind=b"0", magic=b"ustar\0" + b"00", prefix=b""):
    block = bytearray(BLOCK)
    block[:100] = name.ljust(100, b"\0")
    block[100:124] = b"0000644\0" + b"0000000\0" * 2
    block[124:136] = size
    block[136:148] = b"00000000000\0"
    block[148:156] = b" " * 8
    block[156:157] = kind
    block[257:265] = magic
    block[345 : 345 + len(prefix)] = prefix
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


BODY = b"hello".ljust(BLOCK, b"\0")
END = bytes(2 * BLOCK)
SOUND = header() + BODY + header(b"a.txt") + BODY + END


def pax(**records):
    lines = b""
    for key, value in records.items():
        line = b" %s=%s\n" % (key.replace("__", ".").encode(), value)
        length = len(line) + 1
        while len(str(length)) + len(line) != length:
            length = len(str(length)) + len(line)
        lines += str(length).encode() + line
    body = lines + bytes(-len(lines) % BLOCK)
    return header(b"x", size=b"%011o\0" % len(lines), kind=b"x") + body


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_sound_tars_are_read_as_tarfile_reads_them(form, monkeypatch):
    monkeypatch.setattr(foreign, "READ_BYTES", 1 << 12)
    rng = random.Random(form)
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as tar:
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for number in range(60):
            depth = 20 if number % 5 == 0 else 1
            long = "" if form == tarfile.USTAR_FORMAT else "\u00e9" * (number % 3) + "n" * (150 * (number % 2))
            info = tarfile.TarInfo("d234567/" * depth + f"{long}{number}.wav")
            info.mtime = time.time()
            body = rng.randbytes(rng.choice([0, 1, 511, 512, 513, 9000, 20_000]))
            info.size = len(body)
            tar.addfile(info, io.BytesIO(body))
    data = file.getvalue()
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        expected = [(m.name, m.offset_data, m.size, tar.extractfile(m).read()) for m in tar if m.isreg()]
    found = read(data)
    assert [(m.name, m.offset, m.num_bytes, m.body) for m in found] == expected
    assert [m.crc32 for m in found] == [zlib.crc32(body) for *_, body in expected]


def test_only_wanted_bodies_are_kept():
    members = read(SOUND, keep=lambda name, num_bytes: name == "a.txt" and num_bytes == 5)
    assert [(m.name, m.body) for m in members] == [("a.wav", None), ("a.txt", b"hello")]


def test_old_headers_sizes_and_names():
    old = header(b"old.wav", size=b"         5 \0", magic=bytes(8), kind=b"\0")
    big = header(b"big.wav", size=b"\x80" + (5).to_bytes(11, "big"), magic=b"ustar  \0", prefix=b"atime")
    split = header(b"c.wav", prefix=b"a/b")
    odd = header(b"\xff.wav")
    members = read(old + BODY + big + BODY + split + BODY + odd + BODY + header(b"d/", size=b"0" * 11 + b"\0") + END)
    assert [m.name for m in members] == ["old.wav", "big.wav", "a/b/c.wav", "\\xff.wav"]
    assert {m.body for m in members} == {b"hello"}


def test_extended_headers_give_path_and_size():
    named = pax(path=b"long/name.wav", mtime=b"1.5") + header(b"short") + BODY
    sized = pax(size=b"5") + header(size=b"00000000000\0") + BODY
    assert [(m.name, m.body) for m in read(named + sized + END)] == [("long/name.wav", b"hello"), ("a.wav", b"hello")]


HOSTILE = {
    "nothing": (b"", r"byte 0: ends without the end mark"),
    "no tar": (b"hello world, this is text".ljust(BLOCK), r"byte 0: .*checksum"),
    "cut at a member boundary": (SOUND[: 2 * BLOCK], r"byte 1024: ends without the end mark of a tar: it is cut off"),
    "cut inside a header": (SOUND[: 2 * BLOCK + 99], r"byte 1024: ends without the end mark"),
    "cut inside a body": (SOUND[: BLOCK + 3], r"byte 0: 'a.wav' has 5 bytes by its header, 3 are left"),
    "cut inside the end mark": (SOUND[:-BLOCK], r"byte 2048: ends within the end mark"),
    "damaged header": (
        SOUND[: 2 * BLOCK] + b"xxxx" + SOUND[2 * BLOCK + 4 :],
        r"byte 1024: is no tar header: .*damaged",
    ),
    "joined": (SOUND + SOUND, r"byte 2048: has something after its end mark; are these several tars"),
    "gzip": (gzip.compress(SOUND * 9, 0), r"byte 0: is compressed with gzip; decompress it first"),
    "xz": (b"\xfd7zXZ\x00" + bytes(2000), r"byte 0: is compressed with xz"),
    "bzip2": (b"BZh9" + bytes(2000), r"byte 0: is compressed with bzip2"),
    "zstd": (b"\x28\xb5\x2f\xfd" + bytes(2000), r"byte 0: is compressed with zstd"),
    "symbolic link": (
        header(kind=b"2", size=b"0" * 11 + b"\0") + END,
        r"byte 0: 'a.wav' is a symbolic link; .*--deref",
    ),
    "hard link": (header(kind=b"1", size=b"0" * 11 + b"\0") + END, r"'a.wav' is a hard link; .*--hard-dereference"),
    "device": (header(kind=b"3") + BODY + END, r"'a.wav' is a device"),
    "pipe": (header(kind=b"6") + BODY + END, r"'a.wav' is a pipe"),
    "long link": (header(kind=b"K") + BODY + END, r"a link with a long name"),
    "GNU sparse": (header(kind=b"S") + BODY + END, r"'a.wav' is a sparse file; write it whole"),
    "pax sparse": (pax(GNU__sparse__major=b"1") + header() + BODY + END, r"byte 0: describes a sparse file"),
    "unknown type": (header(kind=b"V") + BODY + END, r"'a.wav' is of the unknown type b'V'"),
    "folder with a body": (header(b"d/", kind=b"5") + BODY + END, r"'d/' is a folder of 5 bytes"),
    "negative size": (header(size=b"\xff" * 11 + b"\x00") + BODY + END, r"byte 0: has the size .*no number a tar can"),
    "negative octal": (header(size=b"-0000000010\0") + BODY + END, r"has the size b'-0000000010"),
    "no size": (header(size=bytes(12)) + BODY + END, r"has the size b'\\x00"),
    "too large": (header(size=b"77777777777\0") + BODY + END, r"8589934591 bytes by its header, 1536 are left"),
    "far too large": (header(size=b"\x80" + b"\xff" * 11) + BODY + END, r"bytes by its header"),
    "pax size negative": (pax(size=b"-5") + header() + BODY + END, r"byte 1024: has the size b'-5'"),
    "pax size huge": (pax(size=b"9" * 18) + header() + BODY + END, r"'a.wav' has 9{18} bytes by its header"),
    "pax without length": (header(kind=b"x") + b"path=".ljust(BLOCK, b"\0") + END, r"extended header that cannot be"),
    "pax that lies": (header(kind=b"x") + b"9 a=b\n".ljust(BLOCK, b"\0") + END, r"extended header that cannot be read"),
    "pax bomb": (header(size=b"00010000000\0", kind=b"x") + bytes(BLOCK), r"extended header of 2097152 bytes, limit"),
    "name bomb": (header(size=b"00000300000\0", kind=b"L") + bytes(BLOCK), r"extended header of 98304 bytes, limit"),
    "pax cut": (header(size=b"00000002000\0", kind=b"x") + bytes(BLOCK), r"extended header.* has 1024 bytes"),
    "pax for nothing": (pax(path=b"a") + END, r"ends after the long name or extended header"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_tars_are_refused_in_one_line(name):
    data, message = HOSTILE[name]
    with pytest.raises(DatasetError, match=message) as caught:
        read(data)
    assert str(caught.value).startswith("x.tar: byte ")
    assert "\n" not in str(caught.value)


def test_a_global_header_cannot_name_all_members():
    lines = b"9 path=a\n"
    start = header(b"g", size=b"%011o\0" % len(lines), kind=b"g") + lines.ljust(BLOCK, b"\0")
    with pytest.raises(DatasetError, match=r"byte 0: gives all members one name or size"):
        read(start + header() + BODY + END)
    harmless = header(b"g", size=b"%011o\0" % 14, kind=b"g") + b"14 comment=ab\n".ljust(BLOCK, b"\0")
    assert len(read(harmless + header() + BODY + END)) == 1


def test_every_damaged_header_byte_is_noticed():
    """What plain WebDataset takes for the end of the tar."""
    for position in [*range(BLOCK), *range(2 * BLOCK, 3 * BLOCK)]:
        damaged = bytearray(SOUND)
        damaged[position] ^= 0x01
        with pytest.raises(DatasetError, match=rf"^x\.tar: byte {position // BLOCK * BLOCK}: "):
            read(bytes(damaged))


def test_random_bytes_never_hang_or_eat_memory():
    limit = resource.getrlimit(resource.RLIMIT_DATA)
    rng = random.Random(7)
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[5]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_DATA, (used + (512 << 20), limit[1]))
    started = time.monotonic()
    try:
        for _ in range(3000):
            damaged = bytearray(pax(path=b"p.wav") + SOUND)
            for _ in range(rng.randrange(1, 4)):
                damaged[rng.randrange(len(damaged))] = rng.randrange(256)
            block = rng.randrange(len(damaged) // BLOCK) * BLOCK
            # With the checksum put right, so that the fields behind it are read.
            damaged[block + 148 : block + 156] = b" " * 8
            damaged[block + 148 : block + 156] = b"%06o\0 " % sum(damaged[block : block + BLOCK])
            try:
                read(bytes(damaged))
            except DatasetError as error:
                assert "\n" not in str(error)
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, limit)
    assert time.monotonic() - started < 60
