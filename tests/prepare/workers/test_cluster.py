"""Shards prepared by a real Dask cluster: a scheduler and workers in processes of their own."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.prepare.corpora import QUICK, ROOT, descendants, fingerprint, is_alive, make_corpus, prepare, totals_of
from tests.prepare.hostile import CRASH, HANG
from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.errors import EnvironmentFault
from whisper_shard.prepare import run
from whisper_shard.prepare.events import Note, ShardFinished
from whisper_shard.prepare.run import prepare_corpus
from whisper_shard.prepare.workers.cluster import write_in_cluster
from whisper_shard.prepare.workers.part import run_part

HOSTILE = {"decoders": ({"kind": "tests.prepare.hostile:HostileDecoder"},), "decode_timeout_seconds": 3.0}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    bad = [("crash.wav", CRASH), ("hang.wav", HANG)]
    return make_corpus(tmp_path_factory.mktemp("corpus"), 130, seconds=1.1, extra=bad)


@contextmanager
def running(*command):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    dask = Path(sys.executable).with_name("dask")
    process = subprocess.Popen([dask, *command], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


@contextmanager
def scheduler(folder):
    place = folder / "scheduler.json"
    flags = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(place)]
    with running("scheduler", *flags):
        deadline = time.monotonic() + 60
        while not place.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.2)  # written, but not at once
        yield json.loads(place.read_text())["address"]


def worker(address, folder):
    return running(
        "worker", address, "--nthreads", "1", "--no-nanny", "--no-dashboard", "--local-directory", str(folder)
    )


@pytest.mark.long  # it waits ten seconds for one
def test_no_scheduler(corpus, tmp_path):
    with pytest.raises(EnvironmentFault, match=r"--engine-address tcp://127.0.0.1:9: no Dask scheduler answers"):
        prepare(corpus, tmp_path, engine="dask", engine_address="tcp://127.0.0.1:9")


@pytest.mark.long
def test_a_cluster_gives_the_bytes_of_one_machine(corpus, tmp_path):
    """A worker of the cluster is killed half way and another one added; two recordings kill or block their decoders."""
    expected = prepare(corpus, tmp_path / "one", **HOSTILE)
    with ExitStack() as stack:
        address = stack.enter_context(scheduler(tmp_path))
        doomed = stack.enter_context(worker(address, tmp_path / "w1"))
        stack.enter_context(worker(address, tmp_path / "w2"))
        config = PrepareConfig(**QUICK, **HOSTILE, engine="dask", engine_address=address)
        events, is_killed = [], False
        for event in prepare_corpus(corpus, tmp_path / "many", config):
            events.append(event)
            if isinstance(event, ShardFinished) and not is_killed:
                is_killed = True
                below = descendants(doomed.pid)
                doomed.send_signal(signal.SIGKILL)
                stack.enter_context(worker(address, tmp_path / "w3"))
                deadline = time.monotonic() + 20
                while any(map(is_alive, below)) and time.monotonic() < deadline:
                    time.sleep(0.05)
                assert not any(map(is_alive, below)), "what a killed worker had started ends with it"
    assert is_killed
    assert totals_of(events)["train"].rejects == totals_of(expected)["train"].rejects
    for split in ("train", "eval"):
        assert fingerprint(tmp_path / "many" / split) == fingerprint(tmp_path / "one" / split)


@pytest.mark.slow
def test_a_small_cluster_gets_no_audio_over_the_network(tmp_path, monkeypatch):
    """Though this machine has prepared all rows in order to make the plan."""
    sent = []

    def note_and_write(tasks, config):
        sent.append(len(pickle.dumps(tasks)))
        return write_in_cluster(tasks, config)

    monkeypatch.setattr(run, "write_in_cluster", note_and_write)
    few = make_corpus(tmp_path / "few", 6, seconds=1.1)
    prepare(few, tmp_path / "one")
    with scheduler(tmp_path) as address, worker(address, tmp_path / "w1"):
        events = prepare(few, tmp_path / "many", engine="dask", engine_address=address)
    assert any(isinstance(e, Note) and e.message == f"dask: 1 core at {address}" for e in events)
    (sent_bytes,) = sent
    one_utterance = 2 * 16_000  # of a second, two bytes a sample
    assert sent_bytes < one_utterance
    assert fingerprint(tmp_path / "many/train") == fingerprint(tmp_path / "one/train")


def test_a_process_that_dies_is_reported():
    with pytest.raises(EnvironmentFault, match=r"a process that prepared shards ended with status 1; is the"):
        run_part([Unpicklable()])


class Unpicklable:
    def __reduce__(self):
        return os._exit, (1,)


@pytest.mark.long
def test_ray(corpus, tmp_path):
    pytest.importorskip("ray", reason="pip install 'whisper-shard[ray]'")
    prepare(corpus, tmp_path / "one", **HOSTILE)
    prepare(corpus, tmp_path / "many", **HOSTILE, engine="ray")
    for split in ("train", "eval"):
        assert fingerprint(tmp_path / "many" / split) == fingerprint(tmp_path / "one" / split)
