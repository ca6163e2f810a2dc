"""Reading ahead: threads of the training process fill a buffer with runs, and the loader processes read from it.

The buffer has a fixed size, is shared by the processes of a rank, and holds a run from before its first step until its
last one has been delivered. Runs are read in the order of their numbers. Where the next one has no room although the
very next step needs it, it is left to the process that needs it, which then reads its utterances one by one: the bound
is kept, and nothing waits for ever.
"""

import os
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whisper_shard.dataset.sources.local import Source, SourceCounts, add_counts
from whisper_shard.stream.buffers import Outgoing, new_shared
from whisper_shard.stream.runs import Run, RunSequence

_ENTRIES = 1 << 16  # runs whose places are known at the same time
_ALIGNMENT = 512  # of runs in the buffer, as in a tar
_POLL_SECONDS = 0.0002
_MISSING, _PUBLISHED = 0, 1
_WORKERS = 1025  # loader processes that count their own reads, and the training process


class RunBuffer:
    """Memory for runs, and a table that says where each one lies. Pickles as a reference to the same memory.

    It has memory while a `ReadAhead` fills it; without, every run is read directly. The table is written by the
    training process and read by others without a lock: a process that saw an entry too early would find a wrong
    checksum, and then read the utterance directly.
    """

    def __init__(self, num_bytes: int) -> None:
        """Prepare a buffer.

        Args:
            num_bytes: Its size; 0: nothing is read ahead.
        """
        self.num_bytes = num_bytes
        self._files: tuple[int, ...] = ()
        self._memory = np.empty(0, np.uint8)
        self._words = np.empty(0, np.int64)

    def open(self) -> None:
        """Allocate memory, always anew: a read of an earlier iteration that is still under way cannot write into it."""
        self.close()
        memory_file, self._memory = new_shared(max(self.num_bytes, _ALIGNMENT))
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

    def view(self, place: int, num_bytes: int) -> memoryview:
        """Return a stretch of the memory, to be written."""
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
        return None if words[place] < 0 else self.view(int(words[place]), run.num_bytes).toreadonly()

    def count(self, worker: int, counts: SourceCounts) -> None:
        """Note what a process has read directly so far."""
        if len(self._words):
            self._counts[worker] = counts.gets, counts.num_bytes

    @property
    def read_directly(self) -> SourceCounts:
        """What all processes have read directly."""
        gets, num_bytes = self._counts.sum(axis=0).tolist()
        return SourceCounts(gets=gets, num_bytes=num_bytes)


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


class ReadAhead:
    """The threads that read runs into a buffer, for the time of one iteration over a loader."""

    def __init__(
        self, buffer: RunBuffer, runs: RunSequence, sources: Sequence[Source], *, first_step: int, lookahead: int
    ) -> None:
        """Begin to read.

        Args:
            buffer: What is filled; opened here.
            runs: What to read.
            sources: Where each dataset is read from; closed at the end.
            first_step: First step that will be delivered, counted over all epochs.
            lookahead: Steps after the one that is awaited whose bytes a process may need to finish that one: a batch
                is complete when the first record of the process's next step is there.
        """
        buffer.open()
        self._buffer = buffer
        self._runs = _flatten(runs)
        self._sources = sources
        self._space = Space(buffer.num_bytes)
        self._held: dict[int, list[tuple[Run, int]]] = {}  # by last step
        self._next_step = first_step
        self._lookahead = lookahead
        self._ahead_bytes = max(source.ahead_bytes for source in sources)
        self._is_closed = False
        self._turn = threading.Lock()  # held while the next run is chosen and placed: so runs keep their order
        self._changed = threading.Condition()
        num_threads = max(source.threads for source in sources) if buffer.num_bytes else 0
        for number in range(num_threads):
            threading.Thread(target=self._work, name=f"read-ahead-{number}", daemon=True).start()

    def release(self, step: int) -> None:
        """Free the runs that no step after this one needs; call it when the step has been delivered."""
        with self._changed:
            self._next_step = step + 1
            for last_step in [last for last in self._held if last <= step]:
                for run, place in self._held.pop(last_step):
                    self._space.give_back(place, _rounded(run.num_bytes))
            self._changed.notify_all()

    @property
    def counts(self) -> SourceCounts:
        """Requests and bytes of all processes of this rank so far."""
        return add_counts([self._buffer.read_directly, *(source.counts for source in self._sources)])

    def close(self) -> None:
        """Stop reading; again without effect. A read under way ends in its own time, and its bytes are dropped."""
        with self._changed:
            if self._is_closed:
                return
            self._is_closed = True
            self._changed.notify_all()
            self._buffer.close()
        for source in self._sources:
            source.close()

    def _work(self) -> None:
        """Read one run after the other; each of several threads takes the next run that none has taken."""
        while True:
            with self._turn:
                run = self._next_run()
                if run is None or self._is_closed:
                    return
                place = self._find_place(run)
                out = None if place is None else self._buffer.view(place, run.num_bytes)
            is_read = out is not None and self._fetch(run, out)
            with self._changed:  # after `close` there is no table to write to
                self._buffer.publish(run, place if is_read else None)

    def _next_run(self) -> Run | None:
        try:
            return next(self._runs, None)
        except Exception:  # an index that is damaged, say: those who read directly find the same, and report it
            self._buffer.stop_waiting()
            return None

    def _fetch(self, run: Run, out: memoryview) -> bool:
        """Read a run into the buffer; return whether it is there. Local files stay in the cache of the system instead.

        Where reading fails, the process that needs the run reads its utterances directly, and meets the error.
        """
        source = self._sources[run.dataset]
        try:
            if source.is_local(run.shard):
                source.advise(run.shard, run.offset, run.num_bytes)
                return False
            out[:] = source.read(run.shard, run.offset, run.num_bytes)
        except Exception:
            return False
        return True

    def _find_place(self, run: Run) -> int | None:
        """Wait for room in the buffer; return None where waiting would never end, or at the end."""
        size = _rounded(run.num_bytes)
        with self._changed:
            while not self._is_closed:
                is_needed_now = run.first_step <= self._next_step + self._lookahead
                may_read = is_needed_now or self._bytes_ahead() < self._ahead_bytes
                place = self._space.take(size) if may_read else None
                if place is not None:
                    self._held.setdefault(run.last_step, []).append((run, place))
                    return place
                if is_needed_now:  # memory is freed by later steps only, and they wait for this one
                    return None
                self._changed.wait()
        return None

    def _bytes_ahead(self) -> int:
        return sum(run.num_bytes for held in self._held.values() for run, _ in held if run.first_step > self._next_step)


class StepReader:
    """Reads bytes for the steps of one process: from the buffer where their run is in it, else from the source."""

    def __init__(
        self, buffer: RunBuffer, runs: RunSequence, sources: Sequence[Source], *, first_step: int, worker: int
    ) -> None:
        """Begin before the first step of the rank.

        Args:
            buffer: Where runs are read ahead.
            runs: All runs of the rank.
            sources: Where each dataset is read directly.
            first_step: Step that ``runs`` begin with, counted over all epochs.
            worker: Number of this process.
        """
        self._buffer = buffer
        self._opened = iter(runs) if buffer.is_open and buffer.num_bytes else iter(())
        self._sources = sources
        self._step = first_step - 1
        self._worker = worker
        self._runs: dict[tuple[int, int], list[Run]] = {}

    def advance(self, step: int) -> None:
        """Continue with a step, counted over all epochs.

        Raises:
            DatasetError: The index is damaged.
        """
        if step == self._step:
            return
        while self._step < step:
            self._step += 1
            for run in next(self._opened, ()):
                self._runs.setdefault((run.dataset, run.shard), []).append(run)
        for place, runs in list(self._runs.items()):
            self._runs[place] = [run for run in runs if run.last_step >= step]
            if not self._runs[place]:
                del self._runs[place]

    def read(self, dataset: int, shard: int, offset: int, num_bytes: int) -> bytes | memoryview:
        """Return a stretch of a shard; see `Source`."""
        if not self._sources[dataset].is_local(shard):
            for run in self._runs.get((dataset, shard), ()):
                start = offset - run.offset
                if 0 <= start <= run.num_bytes - num_bytes and (data := self._buffer.wait(run)) is not None:
                    return data[start : start + num_bytes]
        return self.read_directly(dataset, shard, offset, num_bytes)

    def read_directly(self, dataset: int, shard: int, offset: int, num_bytes: int) -> bytes | memoryview:
        """Return a stretch of a shard from its source."""
        data = self._sources[dataset].read(shard, offset, num_bytes)
        self._buffer.count(self._worker, add_counts(source.counts for source in self._sources))
        return data

    def close(self) -> None:
        """Close the sources."""
        for source in self._sources:
            source.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSource:
    """One dataset as a `StepReader` reads it."""

    steps: StepReader
    """Reads for the present step."""
    dataset: int
    """Position of the dataset among those that are mixed."""
    is_direct: bool = False
    """Whether the buffer is passed by."""

    def read(self, shard: int, offset: int, num_bytes: int) -> bytes | memoryview:
        """Return a stretch of a shard; see `Source`."""
        read = self.steps.read_directly if self.is_direct else self.steps.read
        return read(self.dataset, shard, offset, num_bytes)

    def close(self) -> None:
        """Do nothing: the `StepReader` closes the sources."""


def _flatten(runs: RunSequence) -> Iterator[Run]:
    for opened in runs:
        yield from opened


def _rounded(num_bytes: int) -> int:
    return num_bytes + -num_bytes % _ALIGNMENT
