"""The loop: what it leaves behind, when it stops, and what it refuses."""

import pytest

from tests.train.running import of_kind, tiny_config
from whisper_shard.errors import ConfigError
from whisper_shard.train import step as step_module
from whisper_shard.train.events import Delivered, Evaluated, Saved, Skipped, Started, Stepped
from whisper_shard.train.loop import train_model
from whisper_shard.train.run.metrics import read_metrics
from whisper_shard.train.step import TrainStep


def test_events_tell_the_story(finished):
    _, _, events, report = finished
    started = of_kind(events, Started)[0]
    assert (started.total_steps, started.steps_per_epoch, started.train_utterances) == (6, 2, 12)
    assert started.precision == "bfloat16"
    assert [event.step for event in of_kind(events, Stepped)] == [1, 2, 3, 4, 5, 6]
    assert [event.lr for event in of_kind(events, Stepped)][:2] == [0.0, pytest.approx(3e-3)]
    assert [event.step for event in of_kind(events, Evaluated)][:4] == [0, 2, 4, 6]
    assert {event.step for event in of_kind(events, Saved)} == {0, 2, 4, 6}
    assert all(event.is_complete and event.utterances == 12 for event in of_kind(events, Delivered))
    assert len(of_kind(events, Delivered)) == 3
    assert report.steps == 6


def test_stops_early_when_nothing_gets_better(task, tmp_path):
    events = []
    report = train_model(task, tmp_path / "run", tiny_config(task, lr=1e-30, patience=2, save_every=99), events.append)
    assert (report.stopped, report.steps) == ("early", 4)
    assert of_kind(events, Saved)[-1].step == 4, "a stop while the result is scored loses no step"


def test_skipped_steps_do_not_move_the_schedule(task, tmp_path):
    events = []
    config = tiny_config(task, lr=1e30, warmup=0.0, max_nonfinite=99, max_grad_norm=0.0, max_steps=4)
    train_model(task, tmp_path / "run", config, events.append)
    rates = [event.lr for event in of_kind(events, Stepped)]
    assert len(of_kind(events, Skipped)) == 3
    assert rates[1] == rates[2] == rates[3] < rates[0], "one update was made, the other three steps were skipped"


class Arrived:
    """Stands in for the CUDA event behind the copy of the numbers."""

    def synchronize(self):
        pass


def rates_of_a_run(monkeypatch, task, run, *, deferred, **changes):
    """The learning rate of each step; deferred: results are read one step later, as on a GPU."""
    rates = []
    make_step, send = TrainStep.__call__, step_module._send_to_host

    def step_and_note(self, batch, *, lr, **rest):
        rates.append(lr)
        return make_step(self, batch, lr=lr, **rest)

    with monkeypatch.context() as patch:
        patch.setattr(TrainStep, "__call__", step_and_note)
        patch.setattr(step_module, "_send_to_host", lambda n: (n.clone(), Arrived()) if deferred else send(n))
        train_model(task, run, tiny_config(task, epochs=99, max_steps=7, eval_every=99, save_every=99, **changes))
    return rates


@pytest.mark.slow
def test_schedule_does_not_wait_for_numbers_from_the_device(monkeypatch, task, tmp_path):
    at_once = rates_of_a_run(monkeypatch, task, tmp_path / "cpu", deferred=False, log_every=1)
    assert len(set(at_once)) == 7
    for log_every in (1, 3, 99):
        run = tmp_path / f"gpu{log_every}"
        assert rates_of_a_run(monkeypatch, task, run, deferred=True, log_every=log_every) == at_once


def applied_rates(monkeypatch, task, run, *, deferred, **changes):
    """The learning rate that each update really used, and what is logged."""
    rates, events = [], []
    update, send = TrainStep._update, step_module._send_to_host

    def update_and_note(self, loss, lr):
        rates.append(float(lr))
        return update(self, loss, lr)

    settings = {"lr": 1e30, "warmup": 0.0, "max_nonfinite": 99, "max_grad_norm": 0.0, "max_steps": 5, **changes}
    with monkeypatch.context() as patch:
        patch.setattr(TrainStep, "_update", update_and_note)
        patch.setattr(step_module, "_send_to_host", lambda n: (n.clone(), Arrived()) if deferred else send(n))
        train_model(task, run, tiny_config(task, eval_every=99, save_every=99, **settings), events.append)
    return rates, [event.lr for event in of_kind(events, Stepped)]


@pytest.mark.slow
def test_a_skipped_step_repeats_its_learning_rate_also_where_only_the_device_knows(monkeypatch, task, tmp_path):
    applied, logged = applied_rates(monkeypatch, task, tmp_path / "cpu", deferred=False, log_every=1)
    assert applied == logged
    assert applied[0] > applied[1] == applied[2] == applied[4], "one update was made, the others were skipped"
    for log_every in (1, 99):
        run = tmp_path / f"gpu{log_every}"
        found, _ = applied_rates(monkeypatch, task, run, deferred=True, log_every=log_every)
        assert found == pytest.approx(applied, rel=1e-6), "float32 on the device"


def test_packed_windows_train(task, tiny_folder, tmp_path):
    events = []
    train_model(
        task,
        tmp_path / "run",
        tiny_config(task, model=str(tiny_folder), window="packed", batch_size=2, max_steps=2),
        events.append,
    )
    assert of_kind(events, Stepped)[-1].audio_seconds_per_second > 0
    lines = [line for line in read_metrics(tmp_path / "run") if line["kind"] == "train"]
    assert sum(line["audio_seconds"] for line in lines) > 2 * 3.0, "rows hold several utterances"


def test_float16_on_a_cpu_is_refused(task, tmp_path):
    with pytest.raises(ConfigError, match="--precision fp16 does not work on a CPU; use bf16 or fp32"):
        train_model(task, tmp_path / "run", tiny_config(task, precision="fp16"))
