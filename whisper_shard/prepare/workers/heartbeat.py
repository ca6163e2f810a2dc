"""Each worker reports what it is doing through 64 bytes of shared memory, so that a dead or stuck one can be explained.

A worker maps a small file, named after its process id, into memory and notes each row and the time before it decodes
the row; that takes less than a microsecond. The main process reads the files: for progress, and to find out which
recording was in the decoder when a worker died or stopped.
"""

import contextlib
import mmap
import os
import signal
import struct
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

# Eight fields of eight bytes, in the order of WorkerStatus. Shared memory, unlike a pipe, keeps the last note of a
# process that was killed at any moment, and writing it takes no system call. There is no lock: what is read during a
# write can mix two notes. Then the progress is wrong for a moment or, at worst, a worker is restarted without need.
# After a death, when the row decides which recording is suspected, nobody writes.
_LAYOUT = struct.Struct("=qqqdqddq")
IDLE = -1
"""Instead of a row number: no recording is being decoded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStatus:
    """What one worker was doing at its last heartbeat."""

    pid: int
    """Its process id."""
    task: int
    """Number of its task, as the main process counts them."""
    row: int
    """Manifest row that is being decoded, or IDLE."""
    since: float
    """time.monotonic() at which that row, or the pause, began; seconds. All processes share this clock."""
    num_rows: int
    """Rows of this task that are done."""
    seconds_in: float
    """Audio decoded in this task."""
    seconds_kept: float
    """Audio kept in this task."""
    num_rejects: int
    """Rows of this task that were rejected."""


class Heartbeat:
    """A worker's own heartbeat."""

    def __init__(self, folder: Path) -> None:
        self._pid = os.getpid()
        path = folder / str(self._pid)
        with path.open("w+b") as file:
            file.write(bytes(_LAYOUT.size))
            file.flush()
            self._map = mmap.mmap(file.fileno(), _LAYOUT.size)
        self.begin_task(0)

    def begin_task(self, task: int) -> None:
        """Report a new task and count from zero."""
        self._task, self._num_rows, self._num_rejects = task, 0, 0
        self._seconds_in = self._seconds_kept = 0.0
        self._write(IDLE)

    def begin_row(self, row: int) -> None:
        """Report that this row is being decoded."""
        self._write(row)

    def end_row(self, *, seconds_in: float, seconds_kept: float, is_rejected: bool, is_over: bool = True) -> None:
        """Report that the row is done, and count it; ``is_over`` is False where it was one utterance of several."""
        self._num_rows += is_over
        self._num_rejects += is_rejected
        self._seconds_in += seconds_in
        self._seconds_kept += seconds_kept
        self._write(IDLE)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Report that the recording that is being decoded waits for the network; its time begins anew afterwards."""
        row = self._row
        self._write(IDLE)
        yield
        self._write(row)

    def _write(self, row: int) -> None:
        self._row = row
        _LAYOUT.pack_into(
            self._map,
            0,
            self._pid,
            self._task,
            row,
            time.monotonic(),
            self._num_rows,
            self._seconds_in,
            self._seconds_kept,
            self._num_rejects,
        )


@cache
def open_heartbeat(folder: Path) -> Heartbeat:
    """Return the heartbeat of this process in ``folder``, created on first use."""
    return Heartbeat(folder)


def clear_heartbeats(folder: Path) -> None:
    """Remove the heartbeats of all workers; call it while none is alive."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        path.unlink()


def read_heartbeats(folder: Path) -> list[WorkerStatus]:
    """Return the status of every worker that has started work since the folder was cleared."""
    statuses = []
    for path in folder.iterdir():
        with contextlib.suppress(OSError, struct.error, ValueError):
            status = WorkerStatus(**dict(zip(WorkerStatus.__slots__, _LAYOUT.unpack(path.read_bytes()), strict=True)))
            if status.pid == int(path.name):  # else the worker has created the file but not yet written to it
                statuses.append(status)
    return statuses


def find_decoding(statuses: Sequence[WorkerStatus]) -> list[WorkerStatus]:
    """Return the workers that are decoding a recording."""
    return [status for status in statuses if status.row != IDLE]


def find_stalled(statuses: Sequence[WorkerStatus], timeout_seconds: float) -> list[WorkerStatus]:
    """Return the workers that have been decoding the same recording for longer than the timeout."""
    now = time.monotonic()
    return [status for status in find_decoding(statuses) if now - status.since > timeout_seconds]


def kill_workers(statuses: Sequence[WorkerStatus]) -> None:
    """Kill these workers; those already dead are ignored."""
    for status in statuses:
        with contextlib.suppress(ProcessLookupError):
            os.kill(status.pid, signal.SIGKILL)
