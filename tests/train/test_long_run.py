"""Memory over a long run: what is kept for each step or epoch would show, since the garbage collector is off."""

import json
import os
import subprocess
import sys

import pytest

from tests.train.running import make_task

PROGRAM = """
import json, os, sys
from pathlib import Path
from tests.train.running import tiny_config
from whisper_shard.train.events import Delivered
from whisper_shard.train.loop import train_model

task, run, epochs = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
pages = []

def note(event):
    if isinstance(event, Delivered):
        pages.append(int(Path("/proc/self/statm").read_text().split()[1]))

train_model(task, run, tiny_config(task, epochs=epochs, tensorboard=True, save_every=0, ema=0.9), note)
print(json.dumps([count * os.sysconf("SC_PAGE_SIZE") for count in pages]))
"""


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("utterances", [30, 150], ids=["5-steps-an-epoch", "25-steps-an-epoch"])
def test_memory_stays_the_same_from_epoch_to_epoch(utterances, tmp_path):
    task = make_task(tmp_path / "task", train=utterances)
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(task), str(tmp_path / "run"), "20"],
        # oneDNN keeps kernels for the last 1,024 shapes, tens of MB that come with the shapes of the first epochs.
        env={**os.environ, "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "16"},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    resident = json.loads(ran.stdout.splitlines()[-1])
    assert len(resident) == 20
    assert max(resident) <= 1.05 * resident[0], [round(size / 1e6, 1) for size in resident]
