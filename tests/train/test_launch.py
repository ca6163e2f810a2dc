"""The launcher: several ranks on one machine, and the exit code of the job."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.train.running import report_of
from whisper_shard.train.run.checkpoint import list_checkpoints
from whisper_shard.train.run.metrics import read_metrics


def start_launcher(task, run, epochs):
    launcher = Path(__file__).parents[2] / "bin" / "train-ddp"
    flags = ["--model", task / "tiny", "--batch-size", 6, "--epochs", epochs, "--workers", 0, "--eval-batch", 3]
    flags += ["--max-new-tokens", 6, "--threads", 1, "--log-every", 1]
    command = [str(word) for word in (launcher, 2, task, run, *flags)]
    environment = {**os.environ, "PYTHON": sys.executable}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.long
def test_launcher_says_run_me_again_when_ended(task, tmp_path):
    job = start_launcher(task, tmp_path / "run", epochs=500)
    while not any(line["kind"] == "train" for line in read_metrics(tmp_path / "run")):
        assert job.poll() is None, job.communicate()
        time.sleep(0.2)
    job.send_signal(signal.SIGTERM)
    _, errors = job.communicate(timeout=120)
    assert job.returncode == 75, errors
    assert "stopped by SIGTERM" in errors, "after a step, or while evaluating"
    assert list_checkpoints(tmp_path / "run" / "checkpoints")[-1] > 0


@pytest.mark.parametrize(
    ("codes", "expected"),
    [([75, 75], 75), ([75, -15], 75), ([130, 130], 130), ([1, -9], 1), ([3, 1], 3), ([75, 1], 1), ([-9], 1)],
)
def test_exit_code_of_a_job_follows_from_those_of_its_ranks(codes, expected):
    from whisper_shard.train.launch import job_exit_code

    assert job_exit_code(codes) == expected


@pytest.mark.long
def test_launcher_trains_on_two_ranks(task, tmp_path):
    job = start_launcher(task, tmp_path / "run", epochs=1)
    _, errors = job.communicate(timeout=120)
    assert job.returncode == 0, errors
    assert report_of(tmp_path / "run").steps == 2
    assert [line["is_complete"] for line in read_metrics(tmp_path / "run") if line["kind"] == "epoch"] == [True]
