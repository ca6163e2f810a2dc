"""Evaluations during training: what they refuse, how they stop, and how a run goes on after one."""

import math
import os
import shutil
import signal
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.making import make_dataset
from tests.train.running import (
    Kill,
    assert_same_result,
    launch,
    of_kind,
    tiny_config,
)
from whisper_shard.errors import StopRequested, TrainingError
from whisper_shard.train.events import Evaluated, Evaluating, Saved
from whisper_shard.train.loop import train_model
from whisper_shard.train.run.checkpoint import checkpoint_path, list_checkpoints, load_checkpoint


def test_evaluates_and_saves_when_asked(task, tmp_path):
    events = []
    config = tiny_config(task, eval_every=3, save_every=4, progress_every=2, lr=1e-30, max_steps=7)
    train_model(task, tmp_path / "run", config, events.append)
    evaluated = of_kind(events, Evaluated)
    assert [event.step for event in evaluated if event.window == "full"] == [0, 3, 6, 7, 7]
    assert [event.step for event in evaluated if event.window == "borrowed"] == [2, 4], "6 is measured"
    assert [event.step for event in evaluated if event.window == "short"] == [7]
    assert [event.step for event in of_kind(events, Saved)] == [0, 4, 7]


def test_model_with_damaged_weights_is_refused(task, tmp_path):
    model = Path(shutil.copytree(task / "tiny", tmp_path / "damaged"))
    weights = load_file(model / "model.safetensors")
    weights["model.encoder.conv1.weight"][0] = math.nan
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    message = "damaged: before any training its loss on the evaluation data is nan: its weights are damaged; take"
    with pytest.raises(TrainingError, match=message):
        train_model(task, tmp_path / "run", tiny_config(task, model=str(model)))


def test_evaluation_data_without_a_word_is_refused(task, tmp_path):
    make_dataset(tmp_path / "eval", [1.0, 1.5], text="...", seed=9, prefix="eval")
    message = r"eval: its texts have no word once punctuation is dropped, such as eval00000; WER would mean nothing"
    with pytest.raises(TrainingError, match=message):
        train_model(task, tmp_path / "run", tiny_config(task, eval=str(tmp_path / "eval")))


@pytest.mark.slow
def test_signal_to_one_rank_stops_all_between_batches_of_an_evaluation(task, tmp_path):
    kill = Kill(step=2, rank=1, evaluating=True, signal=signal.SIGTERM)
    ends = launch(task, tmp_path / "run", tiny_config(task, dropout=0.0, eval_batch=1), world=2, kill=kill)
    assert [end.exit_code for end in ends] == [75, 75]
    assert ends[0].message == ends[1].message
    assert "stopped by SIGTERM while evaluating, all is saved" in ends[0].message
    newest = list_checkpoints(tmp_path / "run" / "checkpoints")[-1]
    state = load_checkpoint(checkpoint_path(tmp_path / "run" / "checkpoints", newest)).state["run"]
    assert (state["step"], state["evaluation_pending"]) == (2, True)


@pytest.fixture(scope="module")
def mixed(task, tmp_path_factory):
    """An undisturbed run of 4 steps with estimates, that also scores mixtures with the model it began with."""
    run = tmp_path_factory.mktemp("mixed") / "run"
    train_model(task, run, tiny_config(task, max_steps=4, interpolate=True, progress_every=1))
    return run


@pytest.mark.slow
@pytest.mark.parametrize(("nth", "saved"), [(0, [0]), (2, [1]), (5, [2]), (8, [4]), (13, [4])])
def test_stops_between_batches_of_an_evaluation_and_goes_on_the_same(task, mixed, tmp_path, nth, saved):
    """The runs have 2 batches an evaluation: before, after each step (1 and 3 are estimates), and twice at the end."""
    seen = []

    def stop(event):
        if isinstance(event, Evaluating) and event.num_done:
            seen.append(event)
            if len(seen) == nth + 1:
                os.kill(os.getpid(), signal.SIGTERM)

    config = tiny_config(task, max_steps=4, interpolate=True, progress_every=1)
    with pytest.raises(StopRequested, match=r"run: stopped by SIGTERM while evaluating, all is saved; the same"):
        train_model(task, tmp_path / "run", config, stop)
    assert len(seen) == nth + 1
    assert (seen[0].num_done, seen[0].num_utterances, seen[0].window) == (3, 4, "full")
    assert list_checkpoints(tmp_path / "run" / "checkpoints")[-1:] == saved
    train_model(task, tmp_path / "run", config)
    assert_same_result(tmp_path / "run", mixed)
