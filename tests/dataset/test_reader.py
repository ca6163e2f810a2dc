"""Reading: every utterance equal to plain WebDataset's, every damage named, whatever byte it hits."""

import shutil
import zlib

import numpy as np
import pytest
import webdataset as wds

from tests.making import make_dataset, make_waveform
from whisper_shard.audio.members import encode_flac
from whisper_shard.audio.samples import to_int16
from whisper_shard.dataset import reader as source_module
from whisper_shard.dataset.description import ShardInfo
from whisper_shard.dataset.index import open_dataset
from whisper_shard.dataset.reader import RawUtterance, RecordReader, decode_audio, decode_json
from whisper_shard.dataset.schema import index_table
from whisper_shard.dataset.shard import BLOCK, ShardWriter
from whisper_shard.dataset.sources.local import LocalSource
from whisper_shard.dataset.writer import write_dataset
from whisper_shard.errors import DatasetError
from whisper_shard.storage.atomic import atomic_file


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data") / "set", [0.05, 0.02, 0.031, 0.04, 0.05], per_shard=3)


def reader_of(dataset):
    return RecordReader(dataset, LocalSource(dataset))


def copy_of(dataset, folder):
    shutil.copytree(dataset.folder, folder / "copy")
    return open_dataset(folder / "copy")


def test_reads_what_plain_webdataset_reads(dataset):
    urls = [str(dataset.shard_path(i)) for i in range(2)]
    plain = {r["__key__"]: r for r in wds.WebDataset(urls, shardshuffle=False, empty_check=False).decode()}
    reader = reader_of(dataset)
    assert len(plain) == dataset.num_utterances == 5
    for row in range(5):
        raw = reader.read(row)
        assert np.array_equal(decode_audio(raw), plain[raw.key]["npy"])
        assert decode_json(raw) == plain[raw.key]["json"]
        assert reader.index.key(row) == raw.key
    reader.close()


def test_every_flipped_byte_of_an_utterance_is_detected_or_outside_of_it(dataset, tmp_path):
    broken = copy_of(dataset, tmp_path)
    path = broken.shard_path(0)
    clean = path.read_bytes()
    columns = broken.columns("audio_offset", "json_offset", "json_bytes")
    whole = reader_of(dataset)
    expected = [bytes(whole.read(row).audio) for row in range(3)]
    regions = [
        (int(a) - BLOCK, int(j) + int(n))
        for a, j, n in zip(*(columns[name][:3] for name in ("audio_offset", "json_offset", "json_bytes")), strict=True)
    ]
    for position in range(0, len(clean), 19):
        damaged = bytearray(clean)
        damaged[position] ^= 0x20
        path.write_bytes(damaged)
        reader = reader_of(broken)
        for row, (low, high) in enumerate(regions):
            if low <= position < high:
                with pytest.raises(DatasetError, match=rf"000000\.tar: utterance utt0000{row}: .*byte \d+"):
                    reader.read(row)
            else:
                assert bytes(reader.read(row).audio) == expected[row]
        reader.close()


def test_flac_members(tmp_path):
    (tmp_path / "shards").mkdir()
    samples = to_int16(make_waveform(0.3))
    with atomic_file(tmp_path / "shards/000000.tar") as file:
        writer = ShardWriter(file, shard=0)
        audio = encode_flac(samples)
        writer.add(key="k", audio=audio, suffix="flac", num_samples=len(samples), record={"text": "hallo"})
        writer.add(key="short", audio=audio, suffix="flac", num_samples=len(samples) - 1, record={"text": "hallo"})
        writer.add(key="noise", audio=b"fLaC" + bytes(99), suffix="flac", num_samples=7, record={"text": "hallo"})
        writer.close()
    info = ShardInfo(name="shards/000000.tar", num_bytes=file.num_bytes, sha256=file.sha256, num_utterances=3)
    write_dataset(tmp_path, shards=[info], tables=[index_table(writer.rows)], meta={"codec": "flac"})
    reader = reader_of(open_dataset(tmp_path))
    assert np.array_equal(decode_audio(reader.read(0)), samples)
    for row, key in ((1, "short"), (2, "noise")):
        with pytest.raises(DatasetError, match=rf"000000\.tar: utterance {key}: flac member"):
            decode_audio(reader.read(row))


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b'{"text":', b'{"text": 3}', b"\xff"])
def test_json_that_is_not_understood(text):
    raw = RawUtterance(key="k", path="s.tar", suffix="npy", audio=memoryview(b""), json=memoryview(text), num_samples=0)
    with pytest.raises(DatasetError, match=r"s\.tar: utterance k: json member"):
        decode_json(raw)


def test_crc32_is_zlibs():
    assert source_module.crc32(b"123456789") == zlib.crc32(b"123456789") == 0xCBF43926
