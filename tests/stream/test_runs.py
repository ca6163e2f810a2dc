"""Runs: every byte of a rank's utterances once an epoch, in long stretches, numbered alike by every process."""

import numpy as np
import pytest

from tests.making import make_dataset
from whisper_shard.config.stream import StreamConfig
from whisper_shard.stream import runs as runs_module
from whisper_shard.stream.runs import Extents, RunSequence
from whisper_shard.stream.timetable import Step, Timetable

CONFIG = StreamConfig(batch_size=12, length_buckets=4)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Five shards, each sorted by length."""
    rng = np.random.default_rng(0)
    seconds = [s for _ in range(5) for s in sorted(rng.uniform(0.05, 0.6, 40))]
    return make_dataset(tmp_path_factory.mktemp("sorted") / "set", seconds, per_shard=40, speakers=3)


def all_runs(dataset, config=CONFIG, *, start=Step(epoch=0, step=0), rank=0, world=1, epochs=1):  # noqa: B008
    return list(RunSequence(Timetable([dataset], config, rank=rank, world=world), start, epochs))


def extents_of(dataset, timetable, steps):
    utterances = np.concatenate([timetable.utterances(Step(epoch=0, step=step)) for step in steps])
    return Extents(dataset).locate(utterances.astype(np.int64))


@pytest.mark.parametrize("world", [1, 2, 3, 4])
@pytest.mark.parametrize("packed", ["", "speaker"])
def test_runs_of_all_ranks_are_the_bytes_of_the_dataset(dataset, world, packed):
    config = StreamConfig(batch_size=12, length_buckets=4, pack_by=packed)
    covered = []
    for rank in range(world):
        steps = all_runs(dataset, config, rank=rank, world=world)
        assert len(steps) == Timetable([dataset], config).steps
        runs = [run for opened in steps for run in opened]
        assert [run.number for run in runs] == list(range(len(runs)))
        for step, opened in enumerate(steps):
            assert all(run.first_step == step <= run.last_step for run in opened)
        covered += [(run.shard, run.offset, run.offset + run.num_bytes) for run in runs]
    covered.sort()
    for shard, info in enumerate(dataset.shards):
        stretches = [(start, end) for number, start, end in covered if number == shard]
        assert stretches[0][0] == 0 and stretches[-1][1] == info.num_bytes - 1024  # the end mark is not read
        assert [end for _, end in stretches[:-1]] == [start for start, _ in stretches[1:]]  # once, and all of it


def test_every_step_finds_its_utterances_in_runs_that_are_kept_until_then(dataset):
    timetable = Timetable([dataset], CONFIG, rank=1, world=2)
    live = []
    for step, opened in enumerate(all_runs(dataset, rank=1, world=2)):
        live = [run for run in live if run.last_step >= step] + opened
        for shard, start, end in extents_of(dataset, timetable, [step]).tolist():
            assert any(run.shard == shard and run.offset <= start and end <= run.offset + run.num_bytes for run in live)


def test_a_resumed_stream_reads_what_its_steps_still_need(dataset):
    timetable = Timetable([dataset], CONFIG)
    for first in range(timetable.steps):
        steps = all_runs(dataset, start=Step(epoch=0, step=first))
        read = sum(run.num_bytes for opened in steps for run in opened)
        extents = extents_of(dataset, timetable, range(first, timetable.steps))
        assert read == int((extents[:, 2] - extents[:, 1]).sum())


def test_long_runs_are_read_in_parts(dataset, monkeypatch):
    whole = [run for opened in all_runs(dataset) for run in opened]
    monkeypatch.setattr(runs_module, "MAX_RUN_BYTES", 50_000)
    parts = [run for opened in all_runs(dataset) for run in opened]
    assert max(run.num_bytes for run in whole) > 100_000 > max(run.num_bytes for run in parts)
    assert sum(run.num_bytes for run in parts) == sum(run.num_bytes for run in whole)


def test_a_dataset_that_is_not_sorted_is_read_in_short_runs(tmp_path):
    shuffled = make_dataset(tmp_path / "set", np.random.default_rng(1).uniform(0.05, 0.6, 200).tolist(), per_shard=40)
    runs = [run for opened in all_runs(shuffled) for run in opened]
    extents = Extents(shuffled).locate(np.arange(200))
    assert sum(run.num_bytes for run in runs) == int((extents[:, 2] - extents[:, 1]).sum())
