"""Tasks get done whatever happens to the workers.

joblib gives up a call when a worker dies. Here the call is begun again with the tasks that are missing, and the
recordings that were in a decoder at that moment are looked at one by one in a worker of their own. One that ends that
worker too has been struck twice and becomes a reject; the others were bystanders. A worker that was killed from
outside therefore costs nothing but time. A recording that is too slow among others but not alone has one more chance
among others, so that there is an end to it.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from typing import Any

import pyarrow.compute as pc

from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.errors import EnvironmentFault
from whisper_shard.prepare.events import Note
from whisper_shard.prepare.manifests.rows import as_rows
from whisper_shard.prepare.task import ProbeResult, ShardResult, Task, probe_rows, rows_of
from whisper_shard.prepare.workers.heartbeat import Status, in_flight, kill_workers, read_board, stalled
from whisper_shard.prepare.workers.pool import Workers, count_cores, run_tasks

TICK_SECONDS = 0.25
MAX_FUTILE_RESTARTS = 4
"""Deaths in a row without a finished task or a convicted recording, after which the machine is to blame."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """Time has passed."""

    statuses: Sequence[Status]
    """What the workers are doing."""


Outcome = ShardResult | ProbeResult | Tick | Note


def supervise(
    workers: Workers,
    function: Callable[[Task], Any],
    tasks: Sequence[Task],
    config: PrepareConfig,
) -> Iterator[Outcome]:
    """Yield the result of every task, in any order, with ticks and notes in between.

    Args:
        workers: The pool.
        function: What to do with each task: `write_shard` or `probe_rows`.
        tasks: All with different numbers.
        config: Knobs: jobs and limits.

    Raises:
        EnvironmentFault: A task met a fault of the machine, or workers keep dying without anyone to blame.
    """
    pending = {task.number: task for task in tasks}
    num_futile, is_retry = 0, False
    late, warned = set[tuple[int, int]](), set[str]()
    while pending:
        begun = [replace(task, verdicts=dict(workers.verdicts), is_retry=is_retry) for task in pending.values()]
        try:
            for result in _run(workers, function, begun, config.jobs or count_cores()):
                if result is None:
                    statuses = read_board(workers.board)
                    late |= {(status.task, status.row) for status in _kill_stalled(statuses, config)}
                    yield Tick(statuses=statuses)
                else:
                    del pending[result.number]
                    num_futile = 0
                    yield result
        except BrokenProcessPool as error:
            is_retry = True
            suspects = [s for s in in_flight(read_board(workers.board)) if s.task in pending]
            alone = [_row_alone(pending[s.task], s.row, number=-n) for n, s in enumerate(suspects, 1)]
            guilty = _judge(workers, alone, config)
            slow = [task for task, s in zip(alone, suspects, strict=True) if (s.task, s.row) in late]
            late.clear()
            guilty += _find_slow_again(slow, guilty, warned, config)
            num_futile = 0 if guilty or slow else num_futile + 1
            if num_futile > MAX_FUTILE_RESTARTS:
                raise _give_up(error) from error
            for verdict in guilty:
                workers.verdicts[verdict.path] = (verdict.reason, verdict.detail)
                yield Note(
                    message=f"{verdict.path} (row {verdict.row}): {verdict.detail}; rejected as {verdict.reason}"
                )
            if not guilty:
                yield Note(message="a worker process died, but no recording is to blame; its rows are prepared again")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A recording that brought down two workers."""

    path: str
    """The recording."""
    row: int
    """Position in its manifest."""
    reason: str
    """Code of the reject it becomes."""
    detail: str
    """What happened."""


def _run(workers: Workers, function: Callable[[Task], Any], tasks: Sequence[Task], jobs: int) -> Iterator[Any]:
    return run_tasks(workers, function, tasks, jobs=jobs, tick_seconds=TICK_SECONDS)


def _kill_stalled(statuses: Sequence[Status], config: PrepareConfig) -> list[Status]:
    """Kill workers that hang in a decoder, and return them; joblib then reports their death."""
    hanging = stalled(statuses, config.decode_timeout_seconds)
    kill_workers(hanging)
    return hanging


def _judge(workers: Workers, suspects: Sequence[Task], config: PrepareConfig) -> list[Verdict]:
    """Prepare each suspect alone; those that end their worker again are guilty.

    Args:
        workers: The pool.
        suspects: Tasks of one row each.
        config: Knobs.
    """
    untried = {task.number: task for task in suspects}
    verdicts = []
    while untried:
        is_hanging = False
        try:
            for result in _run(workers, probe_rows, list(untried.values()), 1):
                if result is None:
                    is_hanging |= bool(_kill_stalled(read_board(workers.board), config))
                else:
                    del untried[result.number]
        except BrokenProcessPool:
            guilty = [untried.pop(s.task) for s in in_flight(read_board(workers.board)) if s.task in untried]
            if not guilty:
                break  # killed from outside between two rows; whoever is guilty will come up again
            verdicts += [_verdict(task, is_hanging, config) for task in guilty]
    return verdicts


def _find_slow_again(
    slow: Sequence[Task], guilty: Sequence[Verdict], warned: set[str], config: PrepareConfig
) -> list[Verdict]:
    """Return verdicts on recordings that were too slow among others for the second time; warn the others.

    Args:
        slow: Tasks of one row each, stopped for their time.
        guilty: Those that were too slow alone, too.
        warned: Paths of those that were not; grows.
        config: Knobs.
    """
    paths = {verdict.path for verdict in guilty}
    verdicts = [verdict for task in slow if (verdict := _verdict(task, True, config)).path not in paths]
    again = [verdict for verdict in verdicts if verdict.path in warned]
    warned |= {verdict.path for verdict in verdicts}
    return again


def _verdict(task: Task, is_hanging: bool, config: PrepareConfig) -> Verdict:
    reason, detail = "decoder_crashed", "its decoder ended the worker process, twice"
    if is_hanging:
        seconds = config.decode_timeout_seconds
        reason, detail = "decoder_timeout", f"its decoder was still busy after {seconds:g} s, twice"
    row, _ = next(as_rows(rows_of(task), folder=task.corpus))
    return Verdict(path=row.path, row=row.row, reason=reason, detail=detail)


def _row_alone(task: Task, row: int, *, number: int) -> Task:
    """Return a task about one row of another."""
    return replace(task, number=number, rows=rows_of(task).filter(pc.field("row") == row), is_retry=True)


def _give_up(error: BaseException) -> EnvironmentFault:
    return EnvironmentFault(
        f"worker processes die again and again, {MAX_FUTILE_RESTARTS + 1} times in a row, and not because of a "
        f"recording ({' '.join(str(error).split())[:200]}); is the machine out of memory? Lower --jobs and run again"
    )
