"""Reading ahead: threads of the training process fill a buffer with runs, and the loader processes read from it.

The buffer has a fixed size, is shared by the processes of a rank, and holds a run from before its first step until its
last one has been delivered. Runs are read in the order of their numbers. Where the next one has no room although the
very next step needs it, it is left to the process that needs it, which then reads its utterances one by one: the bound
is kept, and nothing waits for ever.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from whisper_shard.dataset.sources.protocol import Source, SourceCounts, add_counts
from whisper_shard.stream.run_buffer import ALIGNMENT, RunBuffer, Space
from whisper_shard.stream.runs import Run, RunSequence


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
                    self._buffer.drop(run)
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
                room = None if place is None else self._buffer.room(run, place)
            is_read = room is not None and self._fetch(run, room)
            with self._changed:  # after `close` there is no table to write to
                self._buffer.publish(run, place if is_read else None)

    def _next_run(self) -> Run | None:
        try:
            return next(self._runs, None)
        except Exception:  # an index that is damaged, say: those who read directly find the same, and report it
            self._buffer.stop_waiting()
            return None

    def _fetch(self, run: Run, room: Callable[[bytes | memoryview], None]) -> bool:
        """Read a run into the buffer; return whether it is there. Local files stay in the cache of the system instead.

        Where reading fails, the process that needs the run reads its utterances directly, and meets the error.
        """
        source = self._sources[run.dataset]
        try:
            if source.is_local(run.shard):
                source.advise(run.shard, run.offset, run.num_bytes)
                return False
            room(source.read(run.shard, run.offset, run.num_bytes))
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
    return num_bytes + -num_bytes % ALIGNMENT
