import os
import resource
import signal
import subprocess
import sys
import time
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection

import pyarrow as pa
import pytest

from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.prepare.output import OutputFolder
from whisper_shard.prepare.workers.pool import SMALL_ROWS, count_cores, count_jobs, open_workers, run_tasks


def data_limit(_task):
    return resource.getrlimit(resource.RLIMIT_DATA)[0]


def fail(task):
    raise ValueError(f"task {task}")


def send_half(task):
    """Return a result of which only half is ever sent: the worker is then killed, or waits to be."""

    def send(self, data, *_):
        os.write(self._handle, bytes(data)[: len(data) // 2])
        if task == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(600)

    Connection._send = send
    return task


def run(tmp_path, function, tasks, **settings):
    with open_workers(OutputFolder(path=tmp_path / "out"), PrepareConfig(**settings)) as workers:
        found = run_tasks(workers, function, tasks, jobs=2)
        return [result for result in found if result is not None]


def test_memory_limit_leaves_room_for_the_shard_that_a_worker_holds(tmp_path):
    assert run(tmp_path, data_limit, range(3), worker_memory_mb=1000, shard_mb=100) == [1_200_000_000] * 3


def test_error_of_a_task_reaches_the_caller(tmp_path):
    with pytest.raises(ValueError, match="task 0"):
        run(tmp_path, fail, [0])


def loaded_pandas(_task):
    return pa.array([1]).to_pylist() == [1] and "pandas" in sys.modules


def process_id(_task):
    return os.getpid()


def test_pyarrow_does_not_import_pandas_in_a_worker(tmp_path):
    assert run(tmp_path, loaded_pandas, range(3)) == [False] * 3


def test_code_of_the_user_finds_pandas(tmp_path):
    tables = ({"kind": "tests.prepare.hostile:Nothing"},)
    assert run(tmp_path, loaded_pandas, [0], filters=tables) == [True]


def test_pandas_is_kept_out_of_the_command_alone():
    code = (
        "import sys, pyarrow as pa\n"
        "from whisper_shard.prepare.workers.light import keep_pandas_out\n"
        "keep_pandas_out(); pa.array([1]); print('pandas' in sys.modules)\n"
        "import pandas; print(pandas.DataFrame({'a': [1]}).shape)\n"
        "keep_pandas_out()\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split("\n")[:2] == ["False", "(1, 1)"]


def test_one_job_is_one_worker(tmp_path):
    with open_workers(OutputFolder(path=tmp_path / "out"), PrepareConfig()) as workers:
        first = [result for result in run_tasks(workers, process_id, range(4), jobs=1) if result is not None]
        second = [result for result in run_tasks(workers, process_id, range(2), jobs=1) if result is not None]
        assert len(set(first + second)) == 1 and first[0] != os.getpid()
        assert len(list(workers.heartbeats.parent.iterdir())) >= 1
        both = [result for result in run_tasks(workers, process_id, range(8), jobs=2) if result is not None]
        assert len(both) == 8


def test_a_worker_that_dies_alone_is_noticed(tmp_path):
    with open_workers(OutputFolder(path=tmp_path / "out"), PrepareConfig()) as workers:
        with pytest.raises(BrokenProcessPool):
            list(run_tasks(workers, os._exit, [3], jobs=1))
        assert [r for r in run_tasks(workers, process_id, [0], jobs=1) if r is not None]


def test_small_manifests_get_one_worker():
    assert count_jobs(PrepareConfig(), SMALL_ROWS) == 1
    assert count_jobs(PrepareConfig(), SMALL_ROWS + 1) == count_cores()
    assert count_jobs(PrepareConfig(jobs=3), 1) == 3
    assert count_jobs(PrepareConfig(segment="vad"), 1) == count_cores()


@pytest.mark.timeout(60)
def test_a_worker_that_is_killed_while_it_sends_is_noticed(tmp_path):
    with pytest.raises(BrokenProcessPool, match="failed to un-serialize"):
        run(tmp_path, send_half, ["dies", "dies"])


@pytest.mark.timeout(60)
def test_a_caller_that_stops_while_a_worker_sends_does_not_wait_for_it(tmp_path):
    with open_workers(OutputFolder(path=tmp_path / "out"), PrepareConfig()) as workers:
        found = run_tasks(workers, send_half, ["waits", "waits"], jobs=2)
        for _ in range(12):
            assert next(found) is None
        found.close()
