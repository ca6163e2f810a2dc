import io
import tarfile

import numpy as np
import pytest

from tests.making import make_dataset, make_waveform
from whisper_shard.audio.members import decode_npy, encode_npy
from whisper_shard.audio.samples import to_int16
from whisper_shard.dataset.shard import tar_header
from whisper_shard.errors import DatasetError


@pytest.mark.parametrize(("name", "num_bytes"), [("a.npy", 0), ("k-_" * 31 + ".json", 12_345), ("b.flac", 8**11 - 1)])
def test_header_is_that_of_tarfile(name, num_bytes):
    info = tarfile.TarInfo(name)
    info.size, info.mode = num_bytes, 0o644
    assert tar_header(name, num_bytes) == info.tobuf(format=tarfile.USTAR_FORMAT)


def test_npy_is_that_of_numpy():
    samples = to_int16(make_waveform(0.1))
    np.testing.assert_array_equal(np.load(io.BytesIO(encode_npy(samples))), samples)
    np.testing.assert_array_equal(decode_npy(encode_npy(samples), num_samples=len(samples)), samples)
    with pytest.raises(DatasetError, match="npy member has 328 bytes, the index promises 228"):
        decode_npy(encode_npy(samples[:100]), num_samples=50)
    with pytest.raises(DatasetError, match="npy member has a header other than"):
        decode_npy(encode_npy(samples[:50]).replace(b"<i2", b"<u2"), num_samples=50)


def test_samples_are_rounded_and_clipped():
    assert to_int16(np.float32([0, 1, -1, 2, -2, 0.5 / 32767, 1.6 / 32767])).tolist() == [
        0, 32767, -32767, 32767, -32768, 0, 2,
    ]  # fmt: skip


def test_conversion_may_use_the_waveform_as_scratch_space():
    waveform = make_waveform(0.1)
    kept = waveform.copy()
    samples = to_int16(waveform)
    np.testing.assert_array_equal(waveform, kept)
    np.testing.assert_array_equal(to_int16(waveform, is_within=True), samples)
    np.testing.assert_array_equal(to_int16(waveform, overwrite=True), samples)


def test_rounding_at_full_scale_does_not_wrap_around():
    above = np.nextafter(np.float32(1), np.float32(2))  # as far as scaling to a peak of 1 can miss it
    assert to_int16(np.array([above, -above]), is_within=True).tolist() == [32767, -32767]


def test_plain_webdataset_reads_the_same(tmp_path):
    import webdataset

    dataset = make_dataset(tmp_path / "train", [0.5, 0.7, 0.6], per_shard=2)
    urls = [str(dataset.shard_path(i)) for i in range(2)]
    records = list(webdataset.WebDataset(urls, shardshuffle=False).decode())
    columns = dataset.columns("key", "text", "num_samples")
    assert [record["__key__"] for record in records] == columns["key"].tolist()
    assert [record["json"]["text"] for record in records] == columns["text"].tolist()
    assert [len(record["npy"]) for record in records] == columns["num_samples"].tolist()
