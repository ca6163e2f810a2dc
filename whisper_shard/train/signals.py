"""SIGTERM and Ctrl-C stop a run after the current step, with everything saved."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from whisper_shard.errors import EXIT_AGAIN, EXIT_INTERRUPTED, StopRequested


class StopRequest:
    """Remembers that SIGTERM or Ctrl-C has asked the run to stop; it does so after the step in hand."""

    def __init__(self) -> None:
        self.signal = 0

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        """Take note; a second Ctrl-C stops at once."""
        if self.signal == signal.SIGINT == number:
            raise KeyboardInterrupt
        self.signal = number


def stop_error(number: int, run: Path, when: str) -> StopRequested:
    """Return the error that ends a run by a signal.

    Args:
        number: Of the signal.
        run: The run folder.
        when: Where the run stood.
    """
    return StopRequested(
        f"{run}: stopped by {signal.Signals(number).name} {when}, all is saved; the same command again goes on from "
        "there",
        exit_code=EXIT_INTERRUPTED if number == signal.SIGINT else EXIT_AGAIN,
    )


@contextmanager
def catch_stop_signals() -> Iterator[StopRequest]:
    """Turn SIGTERM and SIGINT into requests for the time of a run; threads other than the main one cannot listen."""
    request = StopRequest()
    before = {}
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            before[number] = signal.signal(number, request)
    except ValueError:
        before = {}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
