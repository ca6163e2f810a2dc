"""Tasks run in worker processes, through joblib.

`open_workers` makes a pool, `run_tasks` is the only way in. joblib's loky gives results as they come, in any order;
when a worker dies it gives up the whole call, which shows here as BrokenProcessPool, and `supervise` decides how to go
on. Other back ends of joblib (Dask, Ray) can take loky's place here without a change elsewhere.
"""

import contextlib
import ctypes
import os
import queue
import resource
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from joblib import Parallel, delayed
from joblib.externals.loky import get_reusable_executor

from whisper_shard.prepare.workers.heartbeat import clear_board, kill_workers, read_board

Task = TypeVar("Task")
Result = TypeVar("Result")
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One use of the pool, on its way to the thread that drives it."""

    function: Callable[[Any], Any]
    """Importable by name in a worker."""
    tasks: Iterable[Any]
    """Its arguments."""
    jobs: int
    """Tasks at the same time."""
    results: "queue.SimpleQueue[tuple[str, Any]]"
    """Takes ("result", value) for each task, then ("end", None) or ("error", exception)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """A pool of processes, and the thread that drives it."""

    board: Path
    """Folder of the workers' markers."""
    memory_mb: int
    """Limit of each worker's own memory, in 10^6 bytes."""
    verdicts: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Recordings that have brought down two workers: reason and detail by path."""
    calls: "queue.SimpleQueue[Call | None]" = field(default_factory=queue.SimpleQueue)
    """Calls to the driving thread; None ends it."""


@contextmanager
def open_workers(board: Path, memory_mb: int) -> Iterator[Workers]:
    """Make a pool that lasts for several calls of `run_tasks`; processes start with the first."""
    workers = Workers(board=board, memory_mb=memory_mb)
    clear_board(board)
    # One thread starts all workers and outlives them: Linux sends PR_SET_PDEATHSIG when that thread ends.
    thread = threading.Thread(target=_drive, args=(workers,), daemon=True)
    thread.start()
    try:
        yield workers
    finally:
        workers.calls.put(None)
        thread.join()


def run_tasks(
    workers: Workers, function: Callable[[Task], Result], tasks: Iterable[Task], *, jobs: int, tick_seconds: float
) -> Iterator[Result | None]:
    """Yield what ``function`` makes of each task, as it is ready, and None whenever a tick passes without a result.

    Args:
        workers: The pool; one call at a time.
        function: Importable by name in a worker.
        tasks: Taken one by one, shortly before a worker is free.
        jobs: Tasks that run at the same time.
        tick_seconds: Longest silence.

    Raises:
        BrokenProcessPool: A worker died; tasks without a result are to be run again.
        Exception: Whatever a task raised.
    """
    results: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
    stop, kind = threading.Event(), "result"
    workers.calls.put(Call(function=function, tasks=_until(stop, tasks), jobs=jobs, results=results))
    try:
        while True:
            try:
                kind, value = results.get(timeout=tick_seconds)
            except queue.Empty:
                yield None
                continue
            if kind == "end":
                return
            if kind == "error":
                raise value
            yield value
    finally:
        # Whoever leaves early must not leave tasks behind that go on writing.
        stop.set()
        while kind == "result":
            kill_workers(read_board(workers.board))
            with contextlib.suppress(queue.Empty):
                kind, _ = results.get(timeout=0.05)


def count_cores() -> int:
    """Return the number of cores this process may use."""
    return len(os.sched_getaffinity(0))


def _drive(workers: Workers) -> None:
    """Run joblib in a thread of its own, so that the main thread can look after the workers meanwhile."""
    is_whole = True
    while call := workers.calls.get():
        if not is_whole:
            clear_board(workers.board)
        try:
            for result in _run_parallel(workers, call):
                call.results.put(("result", result))
            call.results.put(("end", None))
            is_whole = True
        except BaseException as error:  # raised again in the main thread
            is_whole = False
            get_reusable_executor().shutdown(wait=True, kill_workers=True)
            call.results.put(("error", error))
    get_reusable_executor().shutdown(wait=True, kill_workers=True)


def _run_parallel(workers: Workers, call: Call) -> Iterator[Any]:
    # With n_jobs=1 joblib would decode in this very process, where one bad file could end everything. So there are
    # always two workers, and pre_dispatch lets only one of them be busy.
    parallel = Parallel(
        n_jobs=max(call.jobs, 2),
        backend="loky",
        batch_size=1,
        pre_dispatch=1 if call.jobs == 1 else 2 * call.jobs,
        return_as="generator_unordered",
        initializer=guard_worker,
        initargs=(os.getpid(), workers.memory_mb, workers.board.with_name("workers.log"), list(sys.path)),
    )
    results: Iterator[Any] = parallel(delayed(call.function)(task) for task in call.tasks)
    return results


def _until(stop: threading.Event, tasks: Iterable[Task]) -> Iterator[Task]:
    for task in tasks:
        if stop.is_set():
            return
        yield task


def guard_worker(parent: int, memory_mb: int, log: Path, path: list[str]) -> None:
    """Make this worker die with its parent, keep to its memory, leave Ctrl-C to the parent, and chatter to a file."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)  # the parent died before the line above
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.path[:] = path
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (memory_mb * 1_000_000, hard))
    with contextlib.suppress(OSError):
        # mpg123 and FFmpeg write warnings about odd files straight to standard error.
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(descriptor, 2)
        os.close(descriptor)
