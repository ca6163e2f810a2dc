"""Stopped or killed anywhere, a run ends with the bits of one that was left alone."""

import math
import os
import signal

import numpy as np
import pytest
import torch

from tests.train.running import Kill, final_weights, lasting_metrics, launch, of_kind, report_of, tiny_config
from whisper_shard.errors import EXIT_AGAIN, EXIT_INTERRUPTED, StopRequested
from whisper_shard.train.events import Evaluating, Resumed, Stepped
from whisper_shard.train.loop import train_model
from whisper_shard.train.run.checkpoint import checkpoint_path, list_checkpoints
from whisper_shard.train.run.metrics import read_metrics


@pytest.fixture(scope="module")
def undisturbed(task, tmp_path_factory):
    run = tmp_path_factory.mktemp("resume") / "undisturbed"
    assert launch(task, run, tiny_config(task))[0].exit_code == 0
    return run


def assert_same_result(run, undisturbed):
    assert lasting_metrics(run) == lasting_metrics(undisturbed)
    ours, theirs = final_weights(run), final_weights(undisturbed)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name
    assert report_of(run).wer == report_of(undisturbed).wer


def test_two_undisturbed_runs_are_equal_and_learn(task, undisturbed, tmp_path):
    assert launch(task, tmp_path / "run", tiny_config(task))[0].exit_code == 0
    assert_same_result(tmp_path / "run", undisturbed)
    losses = [line["loss"] for line in lasting_metrics(undisturbed) if line["kind"] == "train"]
    assert len(losses) == 6
    assert losses[-1] < losses[0] - 0.1


def kill_and_finish(task, run, kills):
    for kill in kills:
        ended = launch(task, run, tiny_config(task), kill=kill)[0]
        assert ended.exit_code in (0, -signal.SIGKILL), ended
        if ended.exit_code == 0:
            break
    assert launch(task, run, tiny_config(task))[0].exit_code == 0


def test_killed_in_and_between_saves(task, undisturbed, tmp_path):
    kills = [Kill(step=0), Kill(step=2, seconds=0.004), Kill(step=5)]
    kill_and_finish(task, tmp_path / "run", kills)
    assert_same_result(tmp_path / "run", undisturbed)


@pytest.mark.long
def test_killed_20_times_at_random(task, undisturbed, tmp_path):
    rng = np.random.default_rng(5)
    kills = [Kill(step=int(rng.integers(0, 7)), seconds=float(rng.uniform(0, 0.08))) for _ in range(20)]
    for number, kill in enumerate(kills):
        run = tmp_path / f"run{number // 4}"
        ended = launch(task, run, tiny_config(task), kill=kill)[0]
        assert ended.exit_code in (0, -signal.SIGKILL), ended
    for number in range(5):
        run = tmp_path / f"run{number}"
        assert launch(task, run, tiny_config(task))[0].exit_code == 0
        assert_same_result(run, undisturbed)


@pytest.mark.parametrize(
    ("sent", "exit_code", "name"),
    [(signal.SIGTERM, EXIT_AGAIN, "SIGTERM"), (signal.SIGINT, EXIT_INTERRUPTED, "SIGINT")],
)
def test_signal_saves_and_says_how_to_go_on(task, undisturbed, tmp_path, sent, exit_code, name):
    run = tmp_path / "run"
    ended = launch(task, run, tiny_config(task), kill=Kill(step=3, signal=sent))[0]
    assert ended.exit_code == exit_code
    assert f"stopped by {name} " in ended.message
    assert "all is saved; the same command again goes on from there" in ended.message
    stopped_at = list_checkpoints(run / "checkpoints")[-1]
    assert 3 <= stopped_at < 6
    assert launch(task, run, tiny_config(task))[0].exit_code == 0
    assert_same_result(run, undisturbed)


def test_damaged_checkpoint_costs_steps_but_no_bits(task, undisturbed, tmp_path):
    run = tmp_path / "run"
    assert launch(task, run, tiny_config(task), kill=Kill(step=5))[0].exit_code == -signal.SIGKILL
    newest = checkpoint_path(run / "checkpoints", list_checkpoints(run / "checkpoints")[-1])
    (newest / "optimizer.safetensors").write_bytes(b"cut")
    assert launch(task, run, tiny_config(task))[0].exit_code == 0
    assert_same_result(run, undisturbed)


def test_end_that_was_killed_leaves_no_second_lines(task, tmp_path):
    run, config = tmp_path / "run", tiny_config(task, lr=1e-30, max_steps=2)
    train_model(task, run, config)
    before = [(line["kind"], line["step"]) for line in read_metrics(run)]
    (run / "report.json").unlink()
    train_model(task, run, config)
    after = [(line["kind"], line["step"]) for line in read_metrics(run) if line["kind"] != "resume"]
    assert after == before
    assert {"warning", "final"} <= {kind for kind, _ in after}


def test_resumed_run_tells_so(task, tmp_path):

    def stop(event):
        if isinstance(event, Stepped) and event.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(StopRequested, match=r"stopped by SIGTERM .*, all is saved; the same command again") as stopped:
        train_model(task, tmp_path / "run", tiny_config(task), stop)
    assert stopped.value.exit_code == 75
    at = list_checkpoints(tmp_path / "run" / "checkpoints")[-1]
    events = []
    train_model(task, tmp_path / "run", tiny_config(task), events.append)
    assert of_kind(events, Resumed)[0].step == at
    assert math.isfinite(of_kind(events, Stepped)[-1].loss)


@pytest.fixture(scope="module")
def mixed(task, tmp_path_factory):
    """An undisturbed run of 4 steps with estimates, that also scores mixtures with the model it began with."""
    run = tmp_path_factory.mktemp("mixed") / "run"
    train_model(task, run, tiny_config(task, max_steps=4, interpolate=True, progress_every=1))
    return run


@pytest.mark.parametrize(("nth", "saved"), [(0, []), (2, [1]), (5, [2]), (8, [4]), (13, [4])])
def test_stops_between_batches_of_an_evaluation_and_goes_on_the_same(task, mixed, tmp_path, nth, saved):
    """The runs have 2 batches an evaluation: before, after each step (1 and 3 are estimates), and twice at the end."""
    seen = []

    def stop(event):
        if isinstance(event, Evaluating):
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
