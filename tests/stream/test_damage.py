"""A shard that was cut, shuffled or thinned out: every utterance is right, or an error, or a row of weight 0."""

import dataclasses

import numpy as np
import pytest

from tests.making import make_dataset
from whisper_shard.config.stream import StreamConfig
from whisper_shard.dataset.index import open_dataset
from whisper_shard.dataset.verify import Fault, verify_dataset
from whisper_shard.errors import DatasetError
from whisper_shard.stream.loader import open_loader

CONFIG = StreamConfig(batch_size=2, workers=0, augment=())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("damage") / "set", [0.05, 0.06, 0.07, 0.08], per_shard=4).folder


@pytest.fixture
def shard(folder):
    """The only shard, whole again at the end."""
    path = folder / "shards/000000.tar"
    content = path.read_bytes()
    yield path
    path.write_bytes(content)


@pytest.fixture(scope="module")
def clean(folder):
    return waveforms(open_loader(open_dataset(folder), CONFIG, epochs=1))


def waveforms(batches):
    return {
        key: row[:n].numpy().copy()
        for batch in batches
        for key, row, n, weight in zip(batch.keys, batch.waveforms, batch.num_samples, batch.weights, strict=True)
        if weight
    }


def pieces_of(content):
    """The tar as stretches, one for each pair of members, and its end."""
    starts = [
        place for place in range(0, len(content), 512) if content[place : place + 100].rstrip(b"\0").endswith(b".npy")
    ]
    ends = [*starts[1:], len(content) - 1024]
    return [content[start:end] for start, end in zip(starts, ends, strict=True)], content[-1024:]


def check(folder, clean):
    """Both policies, and `verify`: nothing wrong is ever delivered."""
    dataset = open_dataset(folder)
    skipping = dataclasses.replace(CONFIG, bad_record="skip")
    batches = list(open_loader(dataset, skipping, epochs=1))
    found = waveforms(batches)
    assert len(batches) == 2 and sum(len(batch.weights) for batch in batches) == 4
    for key, waveform in found.items():
        assert np.array_equal(waveform, clean[key])
    skipped = {fault.key for batch in batches for fault in batch.faults}
    assert skipped | set(found) == set(clean) and not skipped & set(found)
    assert any(isinstance(event, Fault) for event in verify_dataset(folder))
    if skipped:
        with pytest.raises(DatasetError, match=r"000000\.tar"):
            list(open_loader(dataset, CONFIG, epochs=1))
    return skipped


def test_cut_at_every_block(folder, shard, clean):
    content = shard.read_bytes()
    for end in range(0, len(content), 512):
        shard.write_bytes(content[:end])
        assert check(folder, clean) == set(clean)  # the size alone gives it away


def test_cut_and_filled_up_at_every_block(folder, shard, clean):
    content = shard.read_bytes()
    for end in range(0, len(content) - 1024, 512):
        shard.write_bytes(content[:end] + bytes(len(content) - end))
        assert check(folder, clean)


@pytest.mark.parametrize(
    "change",
    [
        lambda parts: parts[1:], lambda parts: parts[:-1], lambda parts: [parts[0], parts[2], parts[1], parts[3]],
        lambda parts: [parts[0], parts[0], *parts[1:]], lambda parts: [*parts, parts[0]], lambda parts: parts[::-1],
    ],
    ids=["first removed", "last removed", "swapped", "first doubled", "first again at the end", "reversed"],
)  # fmt: skip
def test_members_removed_swapped_and_doubled(folder, shard, clean, change):
    parts, end = pieces_of(shard.read_bytes())
    assert len(parts) == 4
    shard.write_bytes(b"".join(change(parts)) + end)
    assert check(folder, clean)


def test_two_members_of_one_size_swapped(tmp_path, clean):
    dataset = make_dataset(tmp_path / "set", [0.05] * 4, per_shard=4, text="one text")
    expected = waveforms(open_loader(dataset, CONFIG, epochs=1))
    path = dataset.shard_path(0)
    parts, end = pieces_of(path.read_bytes())
    path.write_bytes(b"".join([parts[1], parts[0], *parts[2:]]) + end)
    assert check(dataset.folder, expected) == {"utt00000", "utt00001"}


def test_a_shard_that_is_gone_or_of_another_dataset(folder, shard, clean, tmp_path):
    content = shard.read_bytes()
    shard.unlink()
    assert check(folder, clean) == set(clean)
    other = make_dataset(tmp_path / "other", [0.05, 0.06, 0.07, 0.08], per_shard=4, seed=7)
    shard.write_bytes(other.shard_path(0).read_bytes())
    assert len(shard.read_bytes()) == len(content) or check(folder, clean) == set(clean)
    assert check(folder, clean)
