"""Loader processes: how they start, what they send, and how they end."""

import multiprocessing
import os
import signal
import threading
import time
import warnings
from collections.abc import Generator, Iterator
from multiprocessing import forkserver
from multiprocessing.connection import wait as wait_for
from multiprocessing.context import BaseContext

import webdataset as wds

from whisper_shard.errors import ConfigError
from whisper_shard.stream.batch import Batch
from whisper_shard.stream.buffers import Parcel
from whisper_shard.stream.stages import Failure

Running = Generator[Batch | Parcel | Failure, None, None]
_START_METHOD = "forkserver"
_POLL_SECONDS = 1
_NO_GUARD = 77  # exit status of a loader process that runs the caller's script again


def pull(pipeline: wds.DataPipeline, *, workers: int, prefetch: int, timeout: float) -> Running:
    """Yield what loader processes send, and end them at once when that is over.

    After an error torch would leave it to the garbage collector, and then wait five seconds for each process.

    Args:
        pipeline: What each process runs.
        workers: Number of processes.
        prefetch: Batches that each keeps ready.
        timeout: Seconds to wait for a batch; 0: for ever.

    Raises:
        ConfigError: The calling script has no ``__main__`` guard.
        RuntimeError: A process has died, or no batch came in time.
    """
    if _is_starting():
        os._exit(_NO_GUARD)  # an exception would end in a traceback of each process
    with warnings.catch_warnings():
        # Of more processes than cores. They wait for storage as much as they compute; `bench` says whether they help.
        warnings.filterwarnings("ignore", message="This DataLoader will create", category=UserWarning)
        web_loader = wds.WebLoader(
            pipeline,
            batch_size=None,
            num_workers=workers,
            prefetch_factor=prefetch,
            timeout=_POLL_SECONDS,
            multiprocessing_context=start_fork_server(),
            worker_init_fn=_begin_worker,
        )
        iterator = iter(web_loader.pipeline[0])
    try:
        yield from _wait_for_each(iterator, timeout)
    except Exception as error:
        if any(process.exitcode == _NO_GUARD for process in iterator._workers):
            raise ConfigError(
                "each loader process runs the calling script once more, and there came to this loop again; put the "
                'code of the script under `if __name__ == "__main__":`, or set workers=0'
            ) from error
        raise
    finally:
        iterator._shutdown_workers()


def _wait_for_each(iterator: Iterator[Batch | Parcel | Failure], timeout: float) -> Running:
    """Yield the items; torch looks whether processes live only when its own, short timeout is over."""
    began = time.monotonic()
    while True:
        try:
            item = next(iterator)
        except StopIteration:
            return
        except RuntimeError as error:
            if not is_timeout(error) or (timeout and time.monotonic() - began > timeout):
                raise
            continue
        yield item
        began = time.monotonic()


def is_timeout(error: Exception) -> bool:
    """Return whether loader processes live, but have delivered nothing in time."""
    return isinstance(error, RuntimeError) and str(error).startswith("DataLoader timed out")


def is_death(error: Exception) -> bool:
    """Return whether a loader process died; an error inside one is raised by torch again as "Caught X in ..."."""
    text = str(error)
    if isinstance(error, RuntimeError):
        return text.startswith("DataLoader worker (pid")
    # A process that dies while it hands over a buffer shows as a broken connection.
    return not text.startswith("Caught ")


def _begin_worker(_worker: int) -> None:
    """Leave Ctrl-C to the training process, which stops its workers itself, and end where that process has died."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Wait for the training process to end, then leave at once: torch's own watchdog sees the fork server only."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for([parent.sentinel])
        os._exit(1)


def start_fork_server() -> BaseContext:
    """Start the server that forks loader processes, if it does not run, and return without waiting for it.

    It imports torch once; a loader process then starts in 0.1 s instead of 2.
    """
    context = multiprocessing.get_context(_START_METHOD)
    context.set_forkserver_preload(["whisper_shard.stream.stages"])
    if not _is_starting():
        forkserver.ensure_running()
    return context


def _is_starting() -> bool:
    """Return whether this is a loader process that is still running the script of the process that started it."""
    return getattr(multiprocessing.current_process(), "_inheriting", False)
