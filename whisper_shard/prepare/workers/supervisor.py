"""All tasks get done, whatever happens to the workers.

joblib gives up a call when a worker dies. The supervisor then starts it again with the tasks that are missing. Before
that, it prepares each recording that was being decoded at that moment alone, in a worker of its own. A recording that
ends that worker too has had two strikes and is quarantined: it is rejected without being decoded again. The others
were bystanders, so a worker that was killed from outside costs only time.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.errors import EnvironmentFault
from whisper_shard.prepare.events import Note
from whisper_shard.prepare.probe import probe_rows
from whisper_shard.prepare.task import Task
from whisper_shard.prepare.workers.heartbeat import (
    WorkerStatus,
    find_decoding,
    find_stalled,
    kill_workers,
    read_heartbeats,
)
from whisper_shard.prepare.workers.pool import Workers, count_cores, run_tasks
from whisper_shard.utterance import Rejection

CRASH, TIMEOUT = "decoder_crashed", "decoder_timeout"
"""Reasons for which recordings are quarantined."""
MAX_FUTILE_RESTARTS = 4
"""Restarts in a row without a finished task or a suspicious recording; one more, and the machine is to blame."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """Time has passed without a result."""

    statuses: Sequence[WorkerStatus]
    """What the workers are doing."""


class Result(Protocol):
    """What a task gives."""

    @property
    def number(self) -> int:
        """Number of the task."""
        ...


AnyTask = TypeVar("AnyTask", bound=Task)
AnyResult = TypeVar("AnyResult", bound=Result)


def supervise(
    workers: Workers,
    function: Callable[[AnyTask], AnyResult],
    tasks: Sequence[AnyTask],
    config: PrepareConfig,
    *,
    probe: Callable[[Any], Result] = probe_rows,
) -> Iterator[AnyResult | Tick | Note]:
    """Yield the result of every task, in any order, with ticks and notes in between.

    Args:
        workers: The pool.
        function: Called with each task: `write_shard`, for example.
        tasks: All with different numbers.
        config: Settings: jobs and limits.
        probe: Called with a task of one row, to find out whether its recording is to blame.

    Raises:
        EnvironmentFault: A task met a fault of the machine, a worker needs more memory than it may use, or workers keep
            dying without a recording to blame.
    """
    pending = {task.number: task for task in tasks}
    num_futile, is_retry = 0, False
    slow_before = set[str]()
    while pending:
        stalled = set[tuple[int, int]]()
        attempts = [replace(task, quarantined={**workers.quarantined}, is_retry=is_retry) for task in pending.values()]
        try:
            for result in run_tasks(workers, function, attempts, jobs=min(config.jobs or count_cores(), len(attempts))):
                if result is None:
                    statuses = read_heartbeats(workers.heartbeats)
                    stalled |= {(status.task, status.row) for status in _kill_stalled(statuses, config)}
                    yield Tick(statuses=statuses)
                else:
                    del pending[result.number]
                    num_futile = 0
                    yield result
        except MemoryError as error:
            raise _out_of_memory(config) from error
        except BrokenProcessPool as error:
            is_retry = True
            suspects = {
                (status.task, status.row): pending[status.task].alone(status.row, number=-number)
                for number, status in enumerate(find_decoding(read_heartbeats(workers.heartbeats)), 1)
                if status.task in pending
            }
            slow = _reject_all([task for key, task in suspects.items() if key in stalled], TIMEOUT, config)
            # A recording that is slow only now and then is quick when it is tried alone. It is quarantined the second
            # time it is too slow among others; else it would stop its shard again and again, without end.
            slow_again = {path: rejection for path, rejection in slow.items() if path in slow_before}
            slow_before |= slow.keys()
            # The first strike was the death among others, this is the second.
            found = slow_again | _try_alone(workers, probe, list(suspects.values()), config)
            # Progress of any kind resets the count. If nothing ever finishes and no recording is suspected, something
            # else kills the workers, most likely for their memory, and restarting them would never end.
            num_futile = 0 if found or slow else num_futile + 1
            if num_futile > MAX_FUTILE_RESTARTS:
                raise _give_up(error) from error
            workers.quarantined.update(found)
            yield from _describe_death(found)


def _kill_stalled(statuses: Sequence[WorkerStatus], config: PrepareConfig) -> list[WorkerStatus]:
    """Kill the workers whose decoder takes too long, and return them; joblib then reports their death."""
    stalled = find_stalled(statuses, config.decode_timeout_seconds)
    kill_workers(stalled)
    return stalled


def _try_alone(
    workers: Workers, probe: Callable[[Any], Result], suspects: Sequence[Task], config: PrepareConfig
) -> dict[str, Rejection]:
    """Prepare each suspect alone, and return a rejection for each that ends its worker again, by path.

    Args:
        workers: The pool.
        probe: Called with each suspect.
        suspects: Tasks of one row each.
        config: Settings.
    """
    untried = {task.number: task for task in suspects}
    rejections = dict[str, Rejection]()
    while untried:
        is_stalled = False
        try:
            for result in run_tasks(workers, probe, list(untried.values()), jobs=1):
                if result is None:
                    is_stalled |= bool(_kill_stalled(read_heartbeats(workers.heartbeats), config))
                else:
                    del untried[result.number]
        except BrokenProcessPool:
            decoding = find_decoding(read_heartbeats(workers.heartbeats))
            found = [untried.pop(status.task) for status in decoding if status.task in untried]
            if not found:
                break  # killed from outside, between two rows; a recording at fault will be a suspect again
            rejections |= _reject_all(found, TIMEOUT if is_stalled else CRASH, config)
    return rejections


def _reject_all(tasks: Sequence[Task], reason: str, config: PrepareConfig) -> dict[str, Rejection]:
    """Return a rejection for the row of each task, by the name of its recording."""
    details = {
        CRASH: "its decoder ended the worker process, twice",
        TIMEOUT: f"its decoder was still busy after {config.decode_timeout_seconds:g} s, twice",
    }
    rows = [row for task in tasks for row in task.recordings()]
    return {row.recording: row.reject(reason, details[reason]) for row in rows}


def _describe_death(quarantined: Mapping[str, Rejection]) -> Iterator[Note]:
    for recording, rejection in quarantined.items():
        yield Note(message=f"{recording} (row {rejection.row}): {rejection.detail}; rejected as {rejection.reason}")
    if not quarantined:
        yield Note(message="a worker process died, but no recording is to blame; its rows are prepared again")


def _out_of_memory(config: PrepareConfig) -> EnvironmentFault:
    return EnvironmentFault(
        f"a worker needs more than --worker-memory-mb {config.worker_memory_mb} beside its shard of --shard-mb "
        f"{config.shard_mb}; raise the former or prepare smaller shards, then run the same command again"
    )


def _give_up(error: BaseException) -> EnvironmentFault:
    return EnvironmentFault(
        f"worker processes die again and again, {MAX_FUTILE_RESTARTS + 1} times in a row, and not because of a "
        f"recording ({' '.join(str(error).split())[:200]}); is the machine out of memory? Lower --jobs and run again"
    )
