import tarfile

import pytest

from tests.making import make_dataset
from whisper_shard.dataset.shard import tar_header


@pytest.mark.parametrize(("name", "num_bytes"), [("a.npy", 0), ("k-_" * 31 + ".json", 12_345), ("b.flac", 8**11 - 1)])
def test_header_is_that_of_tarfile(name, num_bytes):
    info = tarfile.TarInfo(name)
    info.size, info.mode = num_bytes, 0o644
    assert tar_header(name, num_bytes) == info.tobuf(format=tarfile.USTAR_FORMAT)


def test_plain_webdataset_reads_the_same(tmp_path):
    import webdataset

    dataset = make_dataset(tmp_path / "train", [0.5, 0.7, 0.6], per_shard=2)
    urls = [str(dataset.shard_path(i)) for i in range(2)]
    records = list(webdataset.WebDataset(urls, shardshuffle=False).decode())
    columns = dataset.columns("key", "text", "num_samples")
    assert [record["__key__"] for record in records] == columns["key"].tolist()
    assert [record["json"]["text"] for record in records] == columns["text"].tolist()
    assert [len(record["npy"]) for record in records] == columns["num_samples"].tolist()


def test_shards_are_tars(tmp_path):
    dataset = make_dataset(tmp_path / "train", [0.5, 0.7, 0.6])
    with tarfile.open(dataset.shard_path(0)) as tar:
        assert tar.getnames() == [f"utt0000{i}.{s}" for i in range(3) for s in ("npy", "json")]
