"""Whatever ends a command, no process of it is left when it returns, and nothing is said of lost semaphores."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.prepare.corpora import ROOT, descendants, is_alive, make_corpus
from whisper_shard.prepare.workers.heartbeat import read_heartbeats


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("corpus"), 250)


@pytest.mark.slow
@pytest.mark.timeout(60)
@pytest.mark.parametrize(("what", "code"), [("SIGTERM", 75), ("SIGINT", 130), ("killed worker", 0)])
def test_nothing_is_left(corpus, tmp_path, what, code):
    command = [sys.executable, "-m", "whisper_shard", "prepare", str(corpus), str(tmp_path / "out"), "--trim-db", "0"]
    process = subprocess.Popen(
        [*command, "--jobs", "2", "--shard-mb", "1"], cwd=ROOT, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    heartbeats, seen = tmp_path / "out/.prepare/workers", set()
    while process.poll() is None and not (heartbeats.exists() and read_heartbeats(heartbeats)):
        time.sleep(0.01)
    if what == "killed worker":
        os.kill(read_heartbeats(heartbeats)[0].pid, signal.SIGKILL)
    else:
        process.send_signal(signal.Signals[what])
    while process.poll() is None:
        seen |= set(descendants(process.pid))
        time.sleep(0.002)
    left = [pid for pid in seen if is_alive(pid)]
    assert process.returncode == code
    assert len(seen) >= 2 and not left
    shown = process.stderr.read()
    assert "resource_tracker" not in shown and "leaked" not in shown and "Traceback" not in shown
