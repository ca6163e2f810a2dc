"""Shards that are missing or cut are found before a run begins."""

import os

import pytest

from tests.making import make_dataset
from whisper_shard.dataset.presence import check_shards
from whisper_shard.errors import DatasetError


def test_each_shard_has_to_be_there_with_its_size(tmp_path):
    dataset = make_dataset(tmp_path, [0.1] * 6, per_shard=2)
    check_shards([dataset, dataset])
    os.truncate(dataset.shard_path(2), 100)
    with pytest.raises(
        DatasetError, match=r"1 of 3 shards cannot be used, the first: .*2\.tar has 100 bytes, dataset.js"
    ):
        check_shards([dataset])
    dataset.shard_path(0).unlink()
    message = r"2 of 3 shards cannot be used, the first: .*0\.tar is missing; restore it, or prepare the dataset again"
    with pytest.raises(DatasetError, match=message):
        check_shards([dataset])
    os.mkfifo(dataset.shard_path(0))
    with pytest.raises(DatasetError, match=r"0\.tar is not a regular file"):
        check_shards([dataset])
