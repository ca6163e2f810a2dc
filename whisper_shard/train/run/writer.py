"""A thread that writes checkpoints while training goes on."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from whisper_shard.errors import WhisperShardError
from whisper_shard.train.events import Saved

MAX_COPIES = 2
"""Copies of a run in memory at a time, such as the weights of an evaluation, and a checkpoint."""


class CheckpointWriter:
    """Writes what it is given, one after the other; what fails is raised by a later call.

    As a context it waits until everything is written.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoints")
        self._waiting: deque[Future[Saved | None]] = deque()
        self._written: list[Saved] = []

    def make_room(self) -> None:
        """Wait until another copy of the run may be made; call it before.

        Raises:
            EnvironmentFault: Something could not be written.
            TrainingError: Another rank is gone.
        """
        while len(self._waiting) >= MAX_COPIES:
            self._finish_first()

    def start(self, write: Callable[[], Saved | None]) -> None:
        """Begin to write, after what is waiting already.

        Args:
            write: Writes one folder, from copies of what training changes. Returns what to report, if anything.
        """
        self._waiting.append(self._thread.submit(write))

    def take_written(self) -> list[Saved]:
        """Return what has become complete since the last call, without waiting.

        Raises:
            EnvironmentFault: Something could not be written.
            TrainingError: Another rank is gone.
        """
        while self._waiting and self._waiting[0].done():
            self._finish_first()
        written, self._written = self._written, []
        return written

    def wait(self) -> None:
        """Wait until everything is written.

        Raises:
            EnvironmentFault: Something could not be written.
            TrainingError: Another rank is gone.
        """
        while self._waiting:
            self._finish_first()

    def _finish_first(self) -> None:
        if (saved := self._waiting.popleft().result()) is not None:
            self._written.append(saved)

    def __enter__(self) -> "CheckpointWriter":
        """Return self."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait until everything is written; after an error, a second one is not raised."""
        try:
            self.wait()
        except WhisperShardError:
            if error is None:
                raise
        finally:
            self._thread.shutdown()
