"""Each worker says what it is doing in 64 bytes of shared memory, so that its death or sleep can be explained.

A worker maps a small file named after its process; before each row it notes the row and the time, which costs less
than a microsecond. The main process reads the files: for progress while all is well, and to learn which recording was
in the decoder when a worker died or stopped moving.
"""

import contextlib
import mmap
import os
import signal
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_LAYOUT = struct.Struct("=qqqdqddq")
IDLE = -1
"""In place of a row number: no recording is in the decoder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What one worker was doing when it last said so."""

    pid: int
    """Its process."""
    task: int
    """Number of the task, as the main process counts them."""
    row: int
    """Manifest row in the decoder, or IDLE."""
    since: float
    """time.monotonic() when that row, or the pause, began; seconds."""
    num_rows: int
    """Rows of this task that are over."""
    seconds_in: float
    """Audio decoded in this task."""
    seconds_kept: float
    """Audio kept in this task."""
    num_rejects: int
    """Rows of this task that were rejected."""


class Marker:
    """A worker's own side of the board."""

    def __init__(self, folder: Path) -> None:
        self._pid = os.getpid()
        path = folder / str(self._pid)
        with path.open("w+b") as file:
            file.write(bytes(_LAYOUT.size))
            file.flush()
            self._map = mmap.mmap(file.fileno(), _LAYOUT.size)
        self._task = 0
        self._num_rows = self._num_rejects = 0
        self._seconds_in = self._seconds_kept = 0.0
        self.begin_task(0)

    def begin_task(self, task: int) -> None:
        """Start counting from nothing."""
        self._task, self._num_rows, self._num_rejects = task, 0, 0
        self._seconds_in = self._seconds_kept = 0.0
        self._write(IDLE)

    def begin_row(self, row: int) -> None:
        """Say which row goes into the decoder now."""
        self._write(row)

    def end_row(self, *, seconds_in: float, seconds_kept: float, is_rejected: bool) -> None:
        """Say that the row is over, and what came of it."""
        self._num_rows += 1
        self._num_rejects += is_rejected
        self._seconds_in += seconds_in
        self._seconds_kept += seconds_kept
        self._write(IDLE)

    def _write(self, row: int) -> None:
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
def open_marker(folder: Path) -> Marker:
    """Return this process's marker in ``folder``, making it on first use."""
    return Marker(folder)


def clear_board(folder: Path) -> None:
    """Forget all workers; call it while none is alive."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        path.unlink()


def read_board(folder: Path) -> list[Status]:
    """Return the status of every worker that has begun to work since the board was cleared."""
    statuses = []
    for path in folder.iterdir():
        with contextlib.suppress(OSError, struct.error, ValueError):
            pid, task, row, since, num_rows, seconds_in, seconds_kept, num_rejects = _LAYOUT.unpack(path.read_bytes())
            if pid == int(path.name):
                statuses.append(
                    Status(
                        pid=pid,
                        task=task,
                        row=row,
                        since=since,
                        num_rows=num_rows,
                        seconds_in=seconds_in,
                        seconds_kept=seconds_kept,
                        num_rejects=num_rejects,
                    )
                )
    return statuses


def in_flight(statuses: Sequence[Status]) -> list[Status]:
    """Return the workers that have a recording in their decoder."""
    return [status for status in statuses if status.row != IDLE]


def stalled(statuses: Sequence[Status], timeout_seconds: float) -> list[Status]:
    """Return the workers whose recording has been in the decoder for too long."""
    now = time.monotonic()
    return [status for status in in_flight(statuses) if now - status.since > timeout_seconds]


def kill_workers(statuses: Sequence[Status]) -> None:
    """End these workers at once; those already gone are no trouble."""
    for status in statuses:
        with contextlib.suppress(ProcessLookupError):
            os.kill(status.pid, signal.SIGKILL)
