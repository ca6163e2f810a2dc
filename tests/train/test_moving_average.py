import os
import signal

import pytest
import torch

from tests.train.running import final_weights, tiny_config
from whisper_shard.errors import StateError, StopRequested
from whisper_shard.model.averaging import MovingAverage
from whisper_shard.train.events import Stepped
from whisper_shard.train.loop import train_model
from whisper_shard.train.run.checkpoint import checkpoint_path, list_checkpoints, read_tensors


def test_average_follows_what_is_trained_and_begins_quickly():
    model = torch.nn.Linear(1, 1)
    model.bias.requires_grad_(False)
    torch.nn.init.constant_(model.weight, 0.0)
    average = MovingAverage.of(model, 0.5)
    assert list(average.weights) == ["weight"]
    torch.nn.init.constant_(model.weight, 1.0)
    seen = []
    for step in (0, 1, 100):
        average.update(step)
        seen.append(average.weights["weight"].item())
    assert seen == pytest.approx([0.9, 1 - 0.1 * 2 / 11, 1 - 0.1 * 2 / 11 / 2])
    assert model.weight.item() == 1.0
    with pytest.raises(StateError, match="the checkpoint's moving average is of other parameters"):
        average.restore({"bias": torch.zeros(1)})


def newest_average(run):
    steps = list_checkpoints(run / "checkpoints")
    return read_tensors(checkpoint_path(run / "checkpoints", steps[-1]), "average")


def test_stopped_run_ends_with_the_average_of_one_left_alone(task, tmp_path):
    config = tiny_config(task, ema=0.8, max_steps=4)

    def stop(event):
        if isinstance(event, Stepped) and event.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(StopRequested):
        train_model(task, tmp_path / "stopped", config, stop)
    reports = [train_model(task, tmp_path / name, config) for name in ("stopped", "alone")]
    assert reports[0].candidates == reports[1].candidates
    assert set(reports[0].candidates) == {"best", "ema 0.8"}
    ours, theirs = newest_average(tmp_path / "stopped"), newest_average(tmp_path / "alone")
    live = final_weights(tmp_path / "alone")
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    assert any(not torch.equal(tensor, live[name]) for name, tensor in theirs.items() if name in live)
