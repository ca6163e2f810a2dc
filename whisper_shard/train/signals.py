"""SIGTERM and Ctrl-C stop a run after the current step, with everything saved.

A handler only notes the signal. The loop looks at it between steps and between the batches of an evaluation, where the
state can be saved and all ranks can agree to stop.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from whisper_shard.errors import EXIT_AGAIN, EXIT_INTERRUPTED, StopRequested


class StopRequest:
    """A signal handler that notes the signal; the run stops after the current step."""

    def __init__(self) -> None:
        self.signal = 0  # number of the signal; 0: none yet

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        """Note the signal; a second Ctrl-C interrupts at once."""
        if self.signal == signal.SIGINT == number:
            raise KeyboardInterrupt
        self.signal = number


def stop_error(number: int, run: str, when: str) -> StopRequested:
    """Return the error that stops a run after a signal.

    Args:
        number: Signal number.
        run: The run folder.
        when: Where the run stood, such as ``after step 7 of 100``.
    """
    return StopRequested(
        f"{run}: stopped by {signal.Signals(number).name} {when}, all is saved; the same command again goes on from "
        "there",
        exit_code=EXIT_INTERRUPTED if number == signal.SIGINT else EXIT_AGAIN,
    )


@contextmanager
def catch_stop_signals() -> Iterator[StopRequest]:
    """Turn SIGTERM and SIGINT into stop requests within the context; does nothing outside of the main thread."""
    request = StopRequest()
    before = {}
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            before[number] = signal.signal(number, request)
    except ValueError:  # Python lets only the main thread set handlers
        before = {}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
