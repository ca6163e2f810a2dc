"""The loader benchmark: real numbers from a small dataset, and sound advice from made-up ones."""

import json

import numpy as np
import pytest

from tests.making import make_dataset
from whisper_shard.bench.epoch import plan_reads
from whisper_shard.bench.loader import (
    advise,
    bench_dataset,
    bounding_stage,
    measure_rate,
    recommend,
)
from whisper_shard.bench.report import LoaderRate, StageTime
from whisper_shard.config.stream import StreamConfig
from whisper_shard.config.tools import BenchConfig
from whisper_shard.dataset.index import open_dataset
from whisper_shard.dataset.views import filter_dataset
from whisper_shard.errors import ConfigError


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    dataset = make_dataset(tmp_path_factory.mktemp("data") / "set", [0.2 + i / 40 for i in range(40)])
    told = []
    config = BenchConfig(seconds=0.1, max_workers=1, step_ms=500.0, stream=StreamConfig(batch_size=8))
    report = bench_dataset([dataset], config, told.append, log_mel=mean_of)
    assert "stages, round 1" in told and told[-1] == "loader with 1 process"
    return report


def mean_of(waveforms):
    return waveforms.mean()


@pytest.mark.slow
def test_measures_every_stage_and_setting(report):
    names = [stage.name for stage in report.stages]
    assert names == ["read", "verify", "decode", "augment", "collate", "transfer", "log_mel"]
    assert all(0 < stage.seconds < 0.1 for stage in report.stages)
    assert [rate.workers for rate in report.rates] == [0, 1]
    for rate in report.rates:
        assert rate.utterances_per_second > 10
        mean_hours = report.hours / report.num_utterances
        assert rate.audio_hours_per_second / rate.utterances_per_second == pytest.approx(mean_hours, rel=0.3)
        assert 0 < rate.wait_p50_seconds <= rate.wait_p99_seconds
        assert rate.headroom > 1
    assert report.recommended_workers == 0
    assert 0 <= report.padding_share < 0.6
    assert report.bounding_stage in names
    assert json.loads(json.dumps(report.to_json()))["machine"]["cores"] >= 1


def test_counts_the_bytes_that_are_stored_whatever_becomes_of_them(tmp_path):
    dataset = make_dataset(tmp_path / "set", [0.5] * 16)
    faster = {"kind": "speed", "min_factor": 2.0, "max_factor": 2.0, "p": 1.0}
    rate, _, _ = measure_rate(
        [dataset], BenchConfig(seconds=0.05, stream=StreamConfig(batch_size=8, augment=(faster,))), 0
    )
    stored = sum(column.sum() for column in dataset.columns("audio_bytes", "json_bytes").values()) / 16
    assert rate.mb_per_second * 1e6 / rate.utterances_per_second == pytest.approx(stored, rel=0.01)


def rate_of(workers, speed, headroom=None):
    return LoaderRate(
        workers=workers, utterances_per_second=speed, audio_hours_per_second=1.0, mb_per_second=1.0,
        reads=10, mb_fetched=1.0, first_batch_seconds=0.1, wait_p50_seconds=0.1, wait_p99_seconds=0.1,
        headroom=headroom,
    )  # fmt: skip


def test_recommends_the_fewest_processes_that_are_enough():
    assert recommend([rate_of(0, 100), rate_of(1, 195), rate_of(2, 200)]).workers == 1
    assert recommend([rate_of(0, 100, 1.5), rate_of(1, 500, 7.5)]).workers == 0
    assert recommend([rate_of(0, 100, 0.2), rate_of(1, 190, 0.4), rate_of(2, 380, 0.8)]).workers == 2


def test_names_what_bounds():
    stages = [
        StageTime(name="read", seconds=3e-5, where="loader"),
        StageTime(name="augment", seconds=9e-5, where="loader"),
        StageTime(name="transfer", seconds=2e-5, where="training"),
    ]
    assert bounding_stage(stages, workers=0) == bounding_stage(stages, workers=2) == "augment"
    assert bounding_stage(stages, workers=16) == "transfer"


def test_says_when_it_is_not_enough():
    rates = [rate_of(0, 100, 0.2), rate_of(1, 190, 0.4)]
    text = advise(rates, rates[1], bounding="augment", cores=1)
    said = ("Use --workers 1", "NOT enough", "noise and gain", "As many processes as cores were tried, 1.")
    assert all(words in text for words in said)


def test_refusals(tmp_path):
    with pytest.raises(ConfigError, match=r"the dataset is empty, there is nothing to measure"):
        bench_dataset([make_dataset(tmp_path / "empty", [])], BenchConfig())
    with pytest.raises(ConfigError, match=r"--seconds is 0; it must be above 0"):
        bench_dataset([make_dataset(tmp_path / "one", [0.1])], BenchConfig(seconds=0.0))


def test_an_epoch_is_planned_without_reading_it(tmp_path, monkeypatch):
    seconds = [s for _ in range(4) for s in np.sort(np.random.default_rng(0).uniform(0.3, 0.8, 50))]
    dataset = make_dataset(tmp_path / "set", seconds, per_shard=50)
    config = BenchConfig(
        stream=StreamConfig(batch_size=8, length_buckets=2), dollars_per_1000_gets=1.0, dollars_per_gb=100.0
    )
    whole = plan_reads([dataset], config)
    stored = sum(shard.num_bytes - 1024 for shard in dataset.shards)
    used = sum(int(column.sum()) for column in dataset.columns("audio_bytes", "json_bytes").values())
    assert whole.gigabytes == pytest.approx(stored / 1e9)
    assert whole.fetched_over_used == pytest.approx(stored / used)
    assert 4 <= whole.requests < 50
    assert whole.dollars == pytest.approx(whole.requests / 1000 + 100 * whole.gigabytes)
    monkeypatch.setattr("whisper_shard.bench.epoch._MOST_STEPS", 8)
    part = plan_reads([dataset], config)
    assert part.gigabytes == pytest.approx(whole.gigabytes) and part.requests == pytest.approx(whole.requests, rel=0.5)


def test_an_epoch_of_a_view_leaves_out_what_the_view_does(tmp_path, monkeypatch):
    seconds = [s for _ in range(4) for s in np.linspace(0.3, 12.0, 12)]
    dataset = make_dataset(tmp_path / "set", seconds, per_shard=12)
    filter_dataset(dataset.location, tmp_path / "view", "seconds < 4")
    view = open_dataset(tmp_path / "view")
    assert sum(shard.num_bytes for shard in view.shards) == sum(shard.num_bytes for shard in dataset.shards)
    config = BenchConfig(stream=StreamConfig(batch_size=2))
    whole = plan_reads([view], config)
    monkeypatch.setattr("whisper_shard.bench.epoch._MOST_STEPS", 4)
    part = plan_reads([view], config)
    assert part.gigabytes == pytest.approx(whole.gigabytes, rel=0.1)
    assert part.fetched_over_used == pytest.approx(whole.fetched_over_used, rel=0.1) and whole.fetched_over_used < 1.1
