"""Stopped or killed anywhere, a run ends with the bits of one that was left alone."""

import math
import os
import signal

import numpy as np
import pytest

from tests.train.running import (
    Kill,
    assert_same_result,
    lasting_metrics,
    launch,
    of_kind,
    tiny_config,
)
from whisper_shard.errors import EXIT_AGAIN, EXIT_INTERRUPTED, StopRequested
from whisper_shard.train.events import Resumed, Stepped
from whisper_shard.train.loop import train_model
from whisper_shard.train.run.checkpoint import checkpoint_path, list_checkpoints


@pytest.fixture(scope="module")
def undisturbed(task, tmp_path_factory):
    run = tmp_path_factory.mktemp("resume") / "undisturbed"
    assert launch(task, run, tiny_config(task))[0].exit_code == 0
    return run


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


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sent", "exit_code", "name"),
    [
        (signal.SIGTERM, EXIT_AGAIN, "SIGTERM"),
        (signal.SIGINT, EXIT_INTERRUPTED, "SIGINT"),
        (signal.SIGHUP, EXIT_AGAIN, "SIGHUP, the terminal was closed,"),
    ],
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


@pytest.mark.slow
def test_damaged_checkpoint_costs_steps_but_no_bits(task, undisturbed, tmp_path):
    run = tmp_path / "run"
    assert launch(task, run, tiny_config(task), kill=Kill(step=5))[0].exit_code == -signal.SIGKILL
    newest = checkpoint_path(run / "checkpoints", list_checkpoints(run / "checkpoints")[-1])
    (newest / "optimizer.safetensors").write_bytes(b"cut")
    assert launch(task, run, tiny_config(task))[0].exit_code == 0
    assert_same_result(run, undisturbed)


@pytest.mark.slow
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
