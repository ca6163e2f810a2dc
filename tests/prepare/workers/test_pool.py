import resource

import pytest

from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.prepare.output import OutputFolder
from whisper_shard.prepare.workers.pool import open_workers, run_tasks


def data_limit(_task):
    return resource.getrlimit(resource.RLIMIT_DATA)[0]


def fail(task):
    raise ValueError(f"task {task}")


def run(tmp_path, function, tasks, **settings):
    with open_workers(OutputFolder(path=tmp_path / "out"), PrepareConfig(**settings)) as workers:
        found = run_tasks(workers, function, tasks, jobs=2)
        return [result for result in found if result is not None]


def test_memory_limit_leaves_room_for_the_shard_that_a_worker_holds(tmp_path):
    assert run(tmp_path, data_limit, range(3), worker_memory_mb=1000, shard_mb=100) == [1_200_000_000] * 3


def test_error_of_a_task_reaches_the_caller(tmp_path):
    with pytest.raises(ValueError, match="task 0"):
        run(tmp_path, fail, [0])
