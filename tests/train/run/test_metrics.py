"""The record of a run."""

import math
import os
from pathlib import Path

import pytest

from whisper_shard.errors import EnvironmentFault
from whisper_shard.train.run.metrics import MetricsLog, read_metrics


def test_interrupted_lines_are_cut_off(tmp_path):
    with MetricsLog(tmp_path, step=-1, tensorboard=False) as log:
        for step in range(5):
            log.write("train", step, loss=1.0 / (step + 1))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "st')
    with MetricsLog(tmp_path, step=2, tensorboard=False) as log:
        log.write("train", 3, loss=0.5)
    assert [(line["step"], line["loss"]) for line in read_metrics(tmp_path)] == [
        (0, 1.0),
        (1, 0.5),
        (2, 1 / 3),
        (3, 0.5),
    ]


def test_damaged_lines_are_left_out(tmp_path):
    line = '{"kind": "train", "step": 1}\n'
    (tmp_path / "metrics.jsonl").write_text(line + "\0" * 20 + "\n" + "7\n" + line)
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 1]


def test_numbers_that_are_not_finite_are_null(tmp_path):
    with MetricsLog(tmp_path, step=-1, tensorboard=False) as log:
        log.write("eval", 1, loss=math.nan, wer=math.inf, cer=0.5)
    assert read_metrics(tmp_path) == [{"kind": "eval", "step": 1, "loss": None, "wer": None, "cer": 0.5}]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_full_disk_is_the_machines_fault(tmp_path):
    message = r"metrics\.jsonl: cannot write: No space left on device; free some space, then run the same command"
    with (
        pytest.raises(EnvironmentFault, match=message),
        MetricsLog(tmp_path, step=-1, tensorboard=False) as log,
        open("/dev/full", "a") as full,
    ):
        os.dup2(full.fileno(), log._file.fileno())
        log.write("train", 1, loss=1.0)
