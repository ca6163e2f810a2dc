"""Memory for runs that are read ahead, shared by the processes of a rank, and the free places in it."""

import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whisper_shard.dataset.sources.protocol import SourceCounts
from whisper_shard.stream.buffers import Outgoing, new_shared
from whisper_shard.stream.runs import Run

_ENTRIES = 1 << 16  # runs whose places are known at the same time
ALIGNMENT = 512
"""Places in the buffer are multiples of so many bytes, as in a tar."""
_POLL_SECONDS = 0.0002
_MISSING, _PUBLISHED = 0, 1
_WORKERS = 1025  # loader processes that count their own reads, and the training process


class RunBuffer:
    """Memory for runs, and a table that says where each one lies. Pickles as a reference to the same memory.

    It has memory while a `ReadAhead` fills it; without, every run is read directly. The table is written by the
    training process and read by others without a lock: a process that saw an entry too early would find a wrong
    checksum, and then read the utterance directly.
    """

    def __init__(self, num_bytes: int, *, is_shared: bool = True) -> None:
        """Prepare a buffer.

        Args:
            num_bytes: Its size; 0: nothing is read ahead.
            is_shared: Whether other processes read from it. If none does, runs stay in the memory in which the source
                returned them: one copy less.
        """
        self.num_bytes = num_bytes
        self._is_shared = is_shared
        self._own: dict[int, memoryview] = {}  # number of a run -> its bytes, where no other process needs them
        self._files: tuple[int, ...] = ()
        self._memory = np.empty(0, np.uint8)
        self._words = np.empty(0, np.int64)

    def open(self) -> None:
        """Allocate memory, always anew: a read of an earlier iteration that is still under way cannot write into it."""
        self.close()
        memory_file, self._memory = new_shared(max(self.num_bytes if self._is_shared else 0, ALIGNMENT))
        table_file, table = new_shared(8 * (3 * _ENTRIES + 2 * _WORKERS + 1))
        self._files = memory_file, table_file
        self._words = table.view(np.int64)
        self._table[:, 0] = -1

    def close(self) -> None:
        """Give the memory back, and let those who wait read directly."""
        self.stop_waiting()
        for descriptor in self._files:
            os.close(descriptor)
        self._files, self._memory, self._words = (), np.empty(0, np.uint8), np.empty(0, np.int64)
        self._own = {}

    def __getstate__(self) -> dict[str, object]:
        return {"num_bytes": self.num_bytes, "files": tuple(map(Outgoing, self._files))}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["num_bytes"])  # type: ignore[misc]
        if state["files"]:
            self._memory, table = state["files"]
            self._words = table.view(np.int64)

    @property
    def _table(self) -> NDArray[np.int64]:
        """(entries, 3): number of a run, its place, its state; run n stands in entry n modulo their number."""
        return self._words[: 3 * _ENTRIES].reshape(-1, 3)

    @property
    def _counts(self) -> NDArray[np.int64]:
        """(processes, 2): requests and bytes of each process's own reads."""
        return self._words[3 * _ENTRIES : -1].reshape(-1, 2)

    @property
    def is_open(self) -> bool:
        """Whether a `ReadAhead` uses it."""
        return len(self._words) > 0

    def room(self, run: Run, place: int) -> Callable[[bytes | memoryview], None]:
        """Return a function that takes the bytes of a run; after the buffer is opened again it has no effect there."""
        if self._is_shared:
            return partial(self._view(place, run.num_bytes).__setitem__, slice(None))
        return partial(_keep, self._own, run.number)

    def drop(self, run: Run) -> None:
        """Free the memory of a run that nothing needs any more."""
        self._own.pop(run.number, None)

    def _view(self, place: int, num_bytes: int) -> memoryview:
        return self._memory[place : place + num_bytes].data

    def publish(self, run: Run, place: int | None) -> None:
        """Let all processes read a run from a place in the memory; None: it is not in the buffer."""
        if not self.is_open:
            return
        entry = self._table[run.number % _ENTRIES]
        entry[2] = _MISSING
        entry[1] = -1 if place is None else place
        entry[0] = run.number
        entry[2] = _PUBLISHED

    def stop_waiting(self) -> None:
        """Let every process that waits for a run read directly."""
        self._words[-1:] = 1

    def wait(self, run: Run) -> memoryview | None:
        """Return the bytes of a run as soon as they have been read; None: they are not in the buffer."""
        words = self._words
        if not len(words):
            return None
        number, place, state = range(first := 3 * (run.number % _ENTRIES), first + 3)
        while words[number] != run.number or words[state] != _PUBLISHED:
            if words[-1] or words[number] > run.number:
                return None
            time.sleep(_POLL_SECONDS)
        if words[place] < 0:
            return None
        return self._view(int(words[place]), run.num_bytes).toreadonly() if self._is_shared else self._own[run.number]

    def count(self, worker: int, counts: SourceCounts) -> None:
        """Note what a process has read directly so far."""
        if len(self._words):
            self._counts[worker] = counts.gets, counts.num_bytes

    @property
    def read_directly(self) -> SourceCounts:
        """What all processes have read directly."""
        gets, num_bytes = self._counts.sum(axis=0).tolist()
        return SourceCounts(gets=gets, num_bytes=num_bytes)


def _keep(own: dict[int, memoryview], number: int, data: bytes | memoryview) -> None:
    own[number] = memoryview(data).toreadonly()


class Space:
    """Free stretches of a buffer."""

    def __init__(self, num_bytes: int) -> None:
        self._free = [(0, num_bytes)]  # (start, end), in order, none next to another

    def take(self, num_bytes: int) -> int | None:
        """Return the first free place of this size; None: there is none."""
        for number, (start, end) in enumerate(self._free):
            if end - start >= num_bytes:
                self._free[number : number + 1] = [(start + num_bytes, end)] if end - start > num_bytes else []
                return start
        return None

    def give_back(self, start: int, num_bytes: int) -> None:
        """Make a stretch free again."""
        stretches = sorted([*self._free, (start, start + num_bytes)])
        merged = stretches[:1]
        for low, high in stretches[1:]:
            if low == merged[-1][1]:
                merged[-1] = (merged[-1][0], high)
            else:
                merged.append((low, high))
        self._free = merged
