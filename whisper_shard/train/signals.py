"""SIGTERM, Ctrl-C and the end of the terminal (SIGHUP) stop a run after the current step, with everything saved.

A handler only notes the signal. The loop looks at it between steps and between the batches of an evaluation, where the
state can be saved and all ranks can agree to stop.
"""

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

from whisper_shard.errors import EXIT_AGAIN, EXIT_INTERRUPTED, StopRequested

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that stop a run; where ranks get different ones, the first of these counts."""
_NOTICE = b"\nstopping after the current step or batch; Ctrl-C again stops at once, without saving\n"


class StopRequest:
    """A signal handler that notes the signal; the run stops after the current step.

    Args:
        terminals: File descriptors of output that goes to a terminal.
        announces: Whether to say there that a Ctrl-C was noted.
    """

    def __init__(self, terminals: Sequence[int] = (), *, announces: bool = True) -> None:
        self.signal = 0  # number of the signal; 0: none yet
        self._terminals = terminals
        self._announces = announces

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        """Note the signal; a second Ctrl-C interrupts at once."""
        if self.signal == signal.SIGINT == number:
            raise KeyboardInterrupt
        self.signal = number
        if number == signal.SIGINT and self._announces and self._terminals:
            with suppress(OSError):  # the terminal is gone, which stops nothing
                os.write(self._terminals[-1], _NOTICE)  # print() might be in the middle of a line of its own
        if number == signal.SIGHUP:
            _discard_output(self._terminals)


def stop_error(number: int, run: str, when: str) -> StopRequested:
    """Return the error that stops a run after a signal.

    Args:
        number: Signal number.
        run: The run folder.
        when: Where the run stood, such as ``after step 7 of 100``.
    """
    cause = signal.Signals(number).name + (", the terminal was closed," if number == signal.SIGHUP else "")
    return StopRequested(
        f"{run}: stopped by {cause} {when}, all is saved; the same command again goes on from there",
        exit_code=EXIT_INTERRUPTED if number == signal.SIGINT else EXIT_AGAIN,
    )


@contextmanager
def catch_stop_signals(*, announces: bool = True) -> Iterator[StopRequest]:
    """Turn STOP_SIGNALS into stop requests within the context; does nothing outside of the main thread.

    A SIGHUP that is ignored already, as under ``nohup``, stays ignored.

    Args:
        announces: Whether to say on the terminal that a Ctrl-C was noted: one rank does.
    """
    request = StopRequest([descriptor for descriptor in (1, 2) if os.isatty(descriptor)], announces=announces)
    before = {}
    try:
        for number in STOP_SIGNALS:
            if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                continue
            before[number] = signal.signal(number, request)
    except ValueError:  # Python lets only the main thread set handlers
        before = {}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _discard_output(terminals: Sequence[int]) -> None:
    """Send output that went to a closed terminal nowhere: writing there would fail, before the run is saved."""
    null_device = os.open(os.devnull, os.O_WRONLY)
    for descriptor in terminals:
        os.dup2(null_device, descriptor)
    os.close(null_device)
