import os

import pytest

from tests.dataset.test_reader import copy_of, reader_of
from tests.making import make_dataset
from whisper_shard.dataset.reader import RecordReader
from whisper_shard.dataset.shard import BLOCK
from whisper_shard.dataset.sources.local import LocalSource
from whisper_shard.errors import DatasetError, EnvironmentFault


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data") / "set", [0.05, 0.02, 0.031, 0.04, 0.05], per_shard=3)


def test_every_cut_is_detected(dataset, tmp_path):
    broken = copy_of(dataset, tmp_path)
    path = broken.shard_path(0)
    size = path.stat().st_size
    for length in [*range(0, size, BLOCK), size - 1, size + 1]:
        os.truncate(path, length)
        reader = reader_of(broken)
        with pytest.raises(DatasetError, match=rf"000000\.tar: has {length} bytes, dataset.json says {size}"):
            reader.read(0)


def test_a_shard_that_is_cut_while_in_use(dataset, tmp_path):
    broken = copy_of(dataset, tmp_path)
    reader = reader_of(broken)
    reader.read(0)
    os.truncate(broken.shard_path(0), 700)
    with pytest.raises(DatasetError, match=r"000000\.tar: ends \d+ bytes too early at byte 700"):
        reader.read(0)


def test_a_missing_shard(dataset, tmp_path):
    broken = copy_of(dataset, tmp_path)
    broken.shard_path(1).unlink()
    with pytest.raises(DatasetError, match=r"000001\.tar: shard is missing"):
        reader_of(broken).read(4)


def test_a_shard_that_cannot_be_read_is_the_machines_fault(dataset, tmp_path):
    broken = copy_of(dataset, tmp_path)
    path = broken.shard_path(0)
    path.unlink()
    path.symlink_to(path.name)  # opening it fails with ELOOP
    with pytest.raises(EnvironmentFault, match=r"000000\.tar: cannot read: Too many levels of symbolic links"):
        reader_of(broken).read(0)


def test_few_files_stay_open(tmp_path, monkeypatch):
    monkeypatch.setattr("whisper_shard.dataset.sources.local._OPEN_SHARDS", 2)
    dataset = make_dataset(tmp_path / "set", [0.01] * 6, per_shard=1)
    before = len(os.listdir("/proc/self/fd"))
    source = LocalSource(dataset)
    reader = RecordReader(dataset, source)
    for row in (0, 1, 2, 3, 4, 5, 0):
        assert reader.read(row).num_samples == 160
    assert len(os.listdir("/proc/self/fd")) <= before + 3
    reader.close()
