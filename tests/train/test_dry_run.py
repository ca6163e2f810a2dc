"""A dry run measures what the run would take, and writes nothing."""

from dataclasses import replace

import pytest
import torch

from tests.making import make_dataset
from tests.train.running import of_kind, tiny_config
from whisper_shard.cli.main import run as run_command
from whisper_shard.errors import ConfigError
from whisper_shard.model.whisper import load_whisper
from whisper_shard.train import dry_run
from whisper_shard.train.dry_run import try_training
from whisper_shard.train.events import SilenceChosen, Started
from whisper_shard.train.loop import train_model
from whisper_shard.train.step import TrainStep
from whisper_shard.train.validator import Validator


def test_steps_are_timed_and_scaled_by_their_windows(task, monkeypatch):
    clock, events = [0.0], []
    make_step = TrainStep.__call__

    def step_of_known_time(self, batch, **rest):
        result = make_step(self, batch, **rest)
        clock[0] += 0.3 * result.global_batch.padded_samples / 16_000
        return result

    monkeypatch.setattr(TrainStep, "__call__", step_of_known_time)
    monkeypatch.setattr(dry_run.time, "perf_counter", lambda: clock[0])
    found = try_training(task, tiny_config(task, save_every=0), events.append)
    (started,) = of_kind(events, Started)
    assert found.started == started and started.total_steps == 6
    assert len(of_kind(events, SilenceChosen)) == 1
    assert found.timed_steps == 6
    assert found.step_seconds == pytest.approx(0.3 * started.forecast.window_seconds)
    assert (found.evaluations, found.timed_utterances) == (6, 4), "before, after each of 3 epochs, twice at the end"
    assert found.seconds == pytest.approx(6 * found.step_seconds + 6 * found.evaluation_seconds)
    assert found.peak_bytes is None


def test_no_further_step_is_begun_once_enough_time_has_passed(task, monkeypatch):
    monkeypatch.setattr(dry_run, "ENOUGH_SECONDS", -1.0)
    assert try_training(task, tiny_config(task)).timed_steps == 1


def test_the_time_of_an_evaluation_counts_all_evaluation_data(task, monkeypatch, tmp_path):
    evaluate = Validator.evaluate

    def evaluate_at_known_speed(self, window):
        found = evaluate(self, window)
        return replace(found, seconds=2.0 * len(found.utterances))

    monkeypatch.setattr(Validator, "evaluate", evaluate_at_known_speed)
    make_dataset(tmp_path / "others", [0.7, 1.1, 1.9], seed=11, prefix="others")
    config = tiny_config(task, also_eval=(str(tmp_path / "others"),))
    assert try_training(task, tiny_config(task)).evaluation_seconds == pytest.approx(2 * 4)
    assert try_training(task, config).evaluation_seconds == pytest.approx(2 * (4 + 3))


def test_weights_stay_as_they_are(task, monkeypatch):
    kept = []
    monkeypatch.setattr(dry_run, "load_checked", lambda *arguments: kept.append(load_checked(*arguments)) or kept[0])
    try_training(task, tiny_config(task, weight_decay=0.5))
    before, after = load_whisper(str(task / "tiny")).model.state_dict(), kept[0][0].model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


load_checked = dry_run.load_checked


def test_the_command_writes_nothing(task, tmp_path, capsys):
    words = ["train", str(task), str(tmp_path / "run"), "--model", str(task / "tiny"), "--batch-size", "6", "--dry-run"]
    assert run_command([*words, "--workers", "0", "--max-steps", "2", "--max-new-tokens", "4", "--threads", "1"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert any(line.startswith("memory of the largest pass") for line in shown)
    assert shown[-2].startswith("the run takes about ") and "2 steps of " in shown[-2] and "(2 timed)" in shown[-2]
    assert shown[-1] == "dry run: nothing was written"
    assert list(tmp_path.iterdir()) == []


def test_the_function_that_trains_refuses_a_dry_run(task, tmp_path):
    with pytest.raises(ConfigError, match="dry_run: train_model trains; call try_training"):
        train_model(task, tmp_path / "run", tiny_config(task, dry_run=True))
