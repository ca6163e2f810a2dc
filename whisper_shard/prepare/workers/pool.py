"""Tasks run in worker processes, through joblib.

`open_workers` makes a pool, and `run_tasks` runs tasks in it. joblib's loky gives results as they come, in any order;
when a worker dies, it gives up the whole call with BrokenProcessPool, and `supervise` decides how to go on.
"""

import contextlib
import ctypes
import os
import queue
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from joblib import Parallel, delayed
from joblib.executor import get_memmapping_executor
from joblib.externals.loky import get_reusable_executor, reusable_executor

from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.prepare.output import OutputFolder
from whisper_shard.prepare.workers.heartbeat import clear_heartbeats, kill_workers, read_heartbeats
from whisper_shard.prepare.workers.light import keep_pandas_out
from whisper_shard.prepare.workers.trackers import end_trackers_at_exit
from whisper_shard.utterance import Rejection

Task = TypeVar("Task")
Result = TypeVar("Result")
TICK_SECONDS = 0.25
"""Longest time without a result before the caller is told, so that it can look at the heartbeats."""
PATIENCE_SECONDS = 2.0
"""Time in which joblib usually notices that a worker is gone; after it, it is helped."""
SMALL_ROWS = 32
"""Manifests of no more rows are prepared by one worker: to start another one takes longer than what it would do."""
_PR_SET_PDEATHSIG = 1
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # as joblib sets it for one worker per core


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A request to the thread that runs joblib."""

    function: Callable[[Any], Any]
    """Called with each task; importable by name in a worker."""
    tasks: Iterable[Any]
    """Its arguments."""
    jobs: int
    """Tasks at the same time."""
    results: "queue.SimpleQueue[tuple[str, Any]]"
    """Gets ("result", value) for each task, then ("end", None) or ("error", exception)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """A pool of processes, and the thread that runs joblib."""

    heartbeats: Path
    """Folder of the workers' heartbeats."""
    log: Path
    """Gets what workers print to standard error."""
    memory_mb: int
    """Limit of each worker's own memory, in 10^6 bytes."""
    has_plugins: bool = False
    """Whether code of the user's own runs in the workers."""
    quarantined: dict[str, Rejection] = field(default_factory=dict)
    """Recordings that ended or blocked two workers, by path; they are not decoded again."""
    calls: "queue.SimpleQueue[Call | None]" = field(default_factory=queue.SimpleQueue)
    """Requests to the thread; None ends it."""


@contextmanager
def open_workers(output: OutputFolder, config: PrepareConfig) -> Iterator[Workers]:
    """Make a pool that lasts for several calls of `run_tasks`; processes start with the first."""
    # A worker holds a shard in memory while it decodes, and the limit must leave a decoder --worker-memory-mb all the
    # same: else whether a recording is rejected would depend on its place in the shard. Twice, since --shard-mb is the
    # mean size of shards, not the largest.
    memory_mb = config.worker_memory_mb + 2 * config.shard_mb
    has_plugins = any(":" in str(table.get("kind")) for table in (*config.filters, *config.decoders))
    workers = Workers(heartbeats=output.heartbeats, log=output.worker_log, memory_mb=memory_mb, has_plugins=has_plugins)
    clear_heartbeats(workers.heartbeats)
    end_trackers_at_exit()
    # One thread starts all workers and outlives them: Linux sends PR_SET_PDEATHSIG when the thread that started a
    # process ends, even if the rest of the program goes on.
    thread = threading.Thread(target=_serve_calls, args=(workers,), daemon=True)
    thread.start()
    try:
        yield workers
    finally:
        workers.calls.put(None)
        thread.join()


def run_tasks(
    workers: Workers, function: Callable[[Task], Result], tasks: Iterable[Task], *, jobs: int
) -> Iterator[Result | None]:
    """Yield the result of ``function`` for each task as soon as it is ready, and None after TICK_SECONDS without one.

    Args:
        workers: The pool; one call at a time.
        function: Called with each task; importable by name in a worker.
        tasks: Consumed one by one, shortly before a worker is free.
        jobs: Tasks that run at the same time.

    Raises:
        BrokenProcessPool: A worker died; tasks without a result must be run again.
        Exception: Any error that a task raised.
    """
    results: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
    stop, kind = threading.Event(), "result"
    lost: tuple[Any, float] = (None, 0.0)  # the pool that has lost a worker, and since when
    workers.calls.put(Call(function=function, tasks=_take_until(stop, tasks), jobs=jobs, results=results))
    try:
        while True:
            try:
                kind, value = results.get(timeout=TICK_SECONDS)
            except queue.Empty:
                pool, now = _find_pool_with_lost_worker(), time.monotonic()
                if pool is None or pool is not lost[0]:
                    lost = (pool, now)
                elif now - lost[1] > PATIENCE_SECONDS:
                    _close_pipe_of_results(pool)
                yield None
                continue
            if kind == "end":
                return
            if kind == "error":
                raise value
            yield value
    finally:
        # If the caller stops early (an error, Ctrl-C, a closed generator), no worker may go on writing. The workers are
        # killed repeatedly, since joblib may still be starting some, until the thread reports the end of the call.
        stop.set()
        asked = time.monotonic()
        while kind == "result":
            kill_workers(read_heartbeats(workers.heartbeats))
            if time.monotonic() - asked > PATIENCE_SECONDS:
                _close_pipe_of_results(reusable_executor._executor)
            with contextlib.suppress(queue.Empty):
                kind, _ = results.get(timeout=0.05)


def _find_pool_with_lost_worker() -> Any:
    """Return loky's pool if one of its workers is dead, without reaping it; usually loky has noticed at once."""
    pool = reusable_executor._executor
    for pid in list(pool._processes or ()) if pool else ():
        try:
            is_dead = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        except ChildProcessError:  # reaped already
            is_dead = True
        if is_dead:
            return pool
    return None


def _close_pipe_of_results(pool: Any) -> None:
    """End all workers and close this process's end of the pipe through which they send results.

    A worker that is killed while it sends leaves a part of a result. The thread of loky that reads it would wait for
    the rest as long as anyone can write to the pipe, this process included; then it finds that the pool is broken.
    """
    results = pool._result_queue if pool else None
    if results is None:  # no pool any more
        return
    for pid in list(pool._processes or ()):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    results._writer.close()


def count_cores() -> int:
    """Return the number of cores this process may use."""
    return len(os.sched_getaffinity(0))


def count_jobs(config: PrepareConfig, num_rows: int) -> int:
    """Return how many workers prepare a manifest: one per core where the user did not say, but one for a small one."""
    is_small = num_rows <= SMALL_ROWS and config.segment == "none"
    return config.jobs or (1 if is_small else count_cores())


def _serve_calls(workers: Workers) -> None:
    """Run joblib in a thread of its own, so that the main thread can watch the workers meanwhile."""
    is_intact = True
    while call := workers.calls.get():
        if not is_intact:
            # Not right after the failure: the supervisor reads the heartbeats of the dead workers until it calls again.
            clear_heartbeats(workers.heartbeats)
        try:
            for result in _run_parallel(workers, call):
                call.results.put(("result", result))
            call.results.put(("end", None))
            is_intact = True
        except BaseException as error:  # raised again in the main thread
            is_intact = False
            get_reusable_executor().shutdown(wait=True, kill_workers=True)
            call.results.put(("error", error))
    get_reusable_executor().shutdown(wait=True, kill_workers=True)


def _run_parallel(workers: Workers, call: Call) -> Iterator[Any]:
    guard = {
        "initializer": guard_worker,
        "initargs": (os.getpid(), workers.memory_mb, workers.log, list(sys.path), workers.has_plugins),
    }
    if call.jobs == 1:
        # With n_jobs=1, joblib would decode in this process, and a file that crashes a decoder would end the whole run.
        executor = get_memmapping_executor(1, env=_ONE_THREAD, **guard)
        return (executor.submit(call.function, task).result() for task in call.tasks)
    parallel = Parallel(
        n_jobs=call.jobs,
        backend="loky",
        batch_size=1,
        pre_dispatch=2 * call.jobs,
        return_as="generator_unordered",
        **guard,
    )
    results: Iterator[Any] = parallel(delayed(call.function)(task) for task in call.tasks)
    return results


def _take_until(stop: threading.Event, tasks: Iterable[Task]) -> Iterator[Task]:
    for task in tasks:
        if stop.is_set():
            return
        yield task


def guard_worker(parent: int, memory_mb: int, log: Path, path: list[str], has_plugins: bool) -> None:
    """Prepare a new worker: it dies with its parent, has limited memory, ignores Ctrl-C, and logs to a file.

    Args:
        parent: Process id of the parent.
        memory_mb: Limit of its own memory, in 10^6 bytes.
        log: Gets what it prints to standard error.
        path: sys.path of the parent, so that the user's filters and decoders can be imported.
        has_plugins: Whether there are such; they may need what else is kept out.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)  # the parent died before the line above
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # a terminal sends Ctrl-C to all processes; the parent ends its workers
    sys.path[:] = path
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (memory_mb * 1_000_000, hard))
    with contextlib.suppress(OSError):
        # mpg123 and FFmpeg write warnings about unusual files directly to standard error.
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(descriptor, 2)
        os.close(descriptor)
    if not has_plugins:
        keep_pandas_out()
