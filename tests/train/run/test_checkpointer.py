"""What goes into checkpoints, and when."""

import os
import shutil
import signal

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.making import WORDS
from tests.train.running import of_kind, tiny_config
from whisper_shard.demo.tiny_whisper import make_tiny_whisper
from whisper_shard.errors import StateError, StopRequested
from whisper_shard.train.events import Saved, Stepped
from whisper_shard.train.loop import train_model
from whisper_shard.train.run.checkpoint import checkpoint_path, list_checkpoints, load_checkpoint, load_latest
from whisper_shard.train.step import TrainStep


def test_checkpoint_of_another_model_is_refused(task, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(task / "tiny", model)
    config = tiny_config(task, model=str(model), max_steps=1)
    train_model(task, tmp_path / "run", config)
    (tmp_path / "run" / "report.json").unlink()
    shutil.rmtree(model)
    make_tiny_whisper(model, texts=WORDS, width=32, encoder_layers=1, decoder_layers=1, heads=2, vocabulary=260)
    with pytest.raises(StateError, match=r"step-00000001: the checkpoint is of another model: .* has shape"):
        train_model(task, tmp_path / "run", config)
    shutil.rmtree(model)
    shutil.copytree(task / "tiny", model)
    weights = load_file(model / "model.safetensors")
    weights["model.encoder.conv1.weight"] += 0.01
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(StateError, match=r"step-00000001: the checkpoint is of another model: .* of the same shape"):
        train_model(task, tmp_path / "run", config)


def test_each_checkpoint_has_the_best_weights_it_names(task, tmp_path):
    folder = tmp_path / "run" / "checkpoints"
    kept = []

    def look(event):
        if isinstance(event, Saved):
            steps = list_checkpoints(folder)
            best = [load_checkpoint(checkpoint_path(folder, step)).state["run"]["best_step"] for step in steps[-2:]]
            assert set(best) <= set(steps), f"checkpoints {steps} name {best} as best"
            kept.append(steps)

    train_model(task, tmp_path / "run", tiny_config(task, eval_every=3, save_every=1, max_steps=5), look)
    assert kept == [[0], [0, 1], [0, 1, 2], [0, 2, 3], [3, 4], [3, 4, 5]]


def test_what_fits_into_a_pass_is_remembered(monkeypatch, task, tmp_path):
    """Memory runs out at the first pass of the first call only; the second call never tries that much again."""
    sizes, fail = [], [True]
    real = TrainStep._run_pass

    def pass_or_run_out(self, inputs, micro_batch, number):
        sizes.append(len(micro_batch.rows))
        if fail:
            fail.pop()
            raise torch.OutOfMemoryError("out of memory")
        return real(self, inputs, micro_batch, number)

    monkeypatch.setattr(TrainStep, "_run_pass", pass_or_run_out)
    config = tiny_config(task, window="full", max_steps=4)

    def stop(event):
        if isinstance(event, Stepped) and event.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(StopRequested, match="stopped by SIGTERM"):
        train_model(task, tmp_path / "run", config, stop)
    assert sizes[0] == 6
    assert set(sizes[1:]) == {3}
    state = load_latest(tmp_path / "run" / "checkpoints", warn=[].append).state
    assert state["run"]["pass_limit"] == {"device": "cpu", "utterances": 32, "seconds": 18.0}
    sizes.clear()
    train_model(task, tmp_path / "run", config)
    assert set(sizes) == {3}


def test_saves_by_the_clock(task, tmp_path):
    events = []
    train_model(task, tmp_path / "run", tiny_config(task, save_every=99, save_minutes=0.0, max_steps=2), events.append)
    assert [event.step for event in of_kind(events, Saved)] == [0, 1, 2]
