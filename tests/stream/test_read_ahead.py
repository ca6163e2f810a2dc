"""Reading ahead changes nothing but the number of reads: whatever a source does, batches are those of a local disk."""

import dataclasses
import pickle
import threading
import time
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest

from tests.making import make_dataset
from tests.stream.test_loader import digests, utterances
from whisper_shard.config.stream import StreamConfig
from whisper_shard.dataset.sources.local import LocalSource
from whisper_shard.errors import DatasetError, EnvironmentFault
from whisper_shard.stream.loader import open_evaluation, open_loader
from whisper_shard.stream.run_buffer import RunBuffer, Space
from whisper_shard.stream.runs import Run

CONFIG = StreamConfig(batch_size=12, length_buckets=4, workers=0, augment=({"kind": "noise", "p": 0.5},))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    rng = np.random.default_rng(0)
    seconds = [s for _ in range(5) for s in sorted(rng.uniform(0.05, 0.6, 40))]
    return make_dataset(tmp_path_factory.mktemp("sorted") / "set", seconds, per_shard=40, speakers=3)


class FarSource(LocalSource):
    """Files that count as far away: they are read into the buffer, by several threads."""

    threads = 4
    ahead_bytes = 1 << 30

    def is_local(self, shard):
        return False


class SlowSource(FarSource):
    def read(self, shard, offset, num_bytes):
        time.sleep(0.002 * (offset % 3))
        return super().read(shard, offset, num_bytes)


class FailingSource(FarSource):
    """Long reads fail; those of single utterances do not."""

    def read(self, shard, offset, num_bytes):
        if num_bytes > 25_000:
            raise EnvironmentFault("the network is down")
        return super().read(shard, offset, num_bytes)


class LyingSource(FarSource):
    """Long reads come with one wrong byte."""

    def read(self, shard, offset, num_bytes):
        data = bytearray(super().read(shard, offset, num_bytes))
        if num_bytes > 25_000:
            data[len(data) // 2] ^= 1
        return bytes(data)


@pytest.mark.parametrize(
    ("source", "world", "workers"),
    [(FarSource, 1, 0), (FarSource, 2, 0), (FarSource, 4, 0), (FarSource, 4, 2), (SlowSource, 1, 2)],
)
def test_batches_are_those_of_local_files(dataset, world, workers, source):
    config = dataclasses.replace(CONFIG, workers=workers)
    members = sum(shard.num_bytes - 1024 for shard in dataset.shards)  # all of a tar but its end mark
    whole, gets, fetched = [], 0, 0
    for rank in range(world):
        expected = digests(open_loader(dataset, CONFIG, epochs=2, rank=rank, world=world))
        loader = open_loader(dataset, config, epochs=2, rank=rank, world=world, open_source=source)
        batches = list(loader)
        assert [digest_of(batch) for batch in batches] == expected
        whole += batches
        gets, fetched = gets + loader.counts.gets, fetched + loader.counts.num_bytes
    assert utterances(whole) == utterances(open_loader(dataset, CONFIG, epochs=2))
    assert fetched == 2 * members  # each byte once an epoch
    assert gets < 2 * 200 / (4 if world < 4 else 2)


def digest_of(batch):
    (found,) = digests([batch])
    return found


@pytest.mark.parametrize("source", [FailingSource, LyingSource])
@pytest.mark.parametrize("workers", [0, 2])
def test_what_cannot_be_read_ahead_is_read_directly(dataset, source, workers):
    config = dataclasses.replace(CONFIG, workers=workers)
    loader = open_loader(dataset, config, epochs=1, open_source=source)
    assert digests(loader) == digests(open_loader(dataset, CONFIG, epochs=1))
    in_shards = sum(shard.num_bytes for shard in dataset.shards)
    assert loader.counts.gets == 200 if source is FailingSource else loader.counts.num_bytes > in_shards


@pytest.mark.parametrize("workers", [0, 2])
def test_the_bound_is_kept_and_nothing_waits_for_ever(dataset, workers, monkeypatch):
    """A buffer for a few utterances: most runs have no room in it, and the next step still gets its own."""
    monkeypatch.setattr("whisper_shard.stream.loader.BYTES_PER_MB", 60_000)
    config = dataclasses.replace(CONFIG, workers=workers, read_ahead_mb=1)
    loader = open_loader(dataset, config, epochs=1, open_source=SlowSource)
    assert digests(loader) == digests(open_loader(dataset, CONFIG, epochs=1))


def test_no_reading_ahead(dataset):
    config = dataclasses.replace(CONFIG, read_ahead_mb=0)
    before = threading.active_count()
    loader = open_loader(dataset, config, epochs=1, open_source=FarSource)
    assert digests(loader) == digests(open_loader(dataset, CONFIG, epochs=1))
    assert loader.counts.gets == 200
    assert threading.active_count() == before


def test_a_stage_that_keeps_records_keeps_their_samples(dataset):
    kept = {}

    def keep(records):
        for record in records:
            kept[record["__key__"]] = record["waveform"], np.array(record["waveform"])
            yield record

    for _ in open_loader(dataset, CONFIG, epochs=1, stages=[keep], augment=False, open_source=FarSource):
        pass
    assert len(kept) == 200
    assert all(np.array_equal(now, then) for now, then in kept.values())


def test_evaluation_reads_ahead_too(dataset):
    far = open_evaluation(dataset, batch_size=6, open_source=FarSource)
    assert digests(far) == digests(open_evaluation(dataset, batch_size=6))
    assert far.counts.gets < 120


def test_an_iteration_that_is_left_stops_its_threads(dataset):
    before = threading.active_count()
    loader = open_loader(dataset, CONFIG, open_source=SlowSource)
    for _ in range(3):
        iterator = iter(loader)
        next(iterator)
    loader.close()
    deadline = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before


def test_a_damaged_index_is_reported_and_not_waited_for(tmp_path):
    dataset = make_dataset(tmp_path / "set", [0.1] * 30, per_shard=10)
    loader = open_loader(dataset, CONFIG, epochs=1, open_source=FarSource)
    assert len(list(loader)) == 3
    path = dataset.folder / "index.parquet"
    path.write_bytes(path.read_bytes()[:-200] + bytes(200))
    with pytest.raises(DatasetError, match=r"index.parquet"):
        list(open_loader(dataset, CONFIG, epochs=1, open_source=FarSource))


def test_space_is_joined_again():
    space = Space(100)
    places = [space.take(30), space.take(30), space.take(40)]
    assert places == [0, 30, 60] and space.take(1) is None
    space.give_back(0, 30)
    space.give_back(60, 40)
    assert space.take(50) is None and space.take(40) == 60
    space.give_back(30, 30)
    assert space.take(60) == 0


def make_run(number, num_bytes=8):
    return Run(number=number, dataset=0, shard=0, offset=0, num_bytes=num_bytes, first_step=0, last_step=0)


def test_a_buffer_is_the_same_memory_in_another_process():
    buffer = RunBuffer(1 << 16)
    assert buffer.wait(make_run(0)) is None  # not open: to be read directly
    buffer.open()
    buffer.room(make_run(0), 512)(b"whisper!")
    buffer.publish(make_run(0), 512)
    buffer.publish(make_run(1), None)
    other = pickle.loads(ForkingPickler.dumps(buffer))
    assert bytes(other.wait(make_run(0))) == b"whisper!"
    assert other.wait(make_run(1)) is None
    with pytest.raises(TypeError, match=r"cannot modify read-only memory"):
        other.wait(make_run(0))[0] = 0
    threading.Timer(0.05, buffer.stop_waiting).start()
    assert other.wait(make_run(2)) is None
    buffer.close()
    assert buffer.wait(make_run(0)) is None


def test_a_buffer_of_one_process_keeps_the_bytes_that_came():
    buffer = RunBuffer(1 << 16, is_shared=False)
    buffer.open()
    data, run = b"whisper!", make_run(0)
    late = buffer.room(make_run(1), 1024)
    buffer.room(run, 512)(data)
    buffer.publish(run, 512)
    found = buffer.wait(run)
    assert found.obj is data
    with pytest.raises(TypeError, match=r"cannot modify read-only memory"):
        found[0] = 0
    buffer.drop(run)
    assert bytes(found) == data  # who still holds the bytes keeps them
    buffer.open()
    late(b"of old: ")
    buffer.publish(make_run(1), 1024)
    with pytest.raises(KeyError):  # what was read for an earlier iteration does not reach this one
        buffer.wait(make_run(1))
