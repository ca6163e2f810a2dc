"""What a person sees: progress that suits the place it is shown in, and one line an error."""

import os
import select
import sys
import time
from types import TracebackType
from typing import IO, NoReturn

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.table import Column
from rich.text import Text

from whisper_shard.errors import EXIT_UNREAD

PLAIN_SECONDS = 30.0
"""Away from a terminal, progress is one line in so many seconds."""


class _Terminal(Console):
    """Where lines go: to stdout, or to stderr."""

    def on_broken_pipe(self) -> NoReturn:
        """Leave without a word: nobody would read it."""
        leave_unread()


console = _Terminal(highlight=False, soft_wrap=True, emoji=False)  # a name may hold :smile:
errors = _Terminal(stderr=True, highlight=False, soft_wrap=True, emoji=False)


class Progress:
    """A bar on a terminal that can draw one; elsewhere a plain line every 30 seconds and one at the end.

    Use as a context manager; call `update` as often as you like.
    """

    def __init__(self, title: str) -> None:
        self._title = title
        self._live = console.is_terminal and not console.is_dumb_terminal
        self._last_line = time.monotonic()
        self._line = ""
        self._task: TaskID | None = None
        self._bar = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=12),
            MofNCompleteColumn(),
            # In a narrow terminal the note is cut, and nothing else.
            TextColumn("{task.fields[note]}", markup=False, table_column=Column(ratio=1, no_wrap=True)),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            expand=True,
        )

    def __enter__(self) -> "Progress":
        if self._live:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._bar.stop()
        elif kind is None and self._line:
            self.say(self._line)

    def update(self, done: int, total: int | None, note: str = "") -> None:
        """Show that ``done`` of ``total`` are done; ``note`` holds whatever else is worth knowing."""
        if self._live:
            if self._task is None:
                self._task = self._bar.add_task(self._title, total=total, note=note)
            self._bar.update(self._task, completed=done, total=total, note=note)
            return
        self._line = f"{self._title}: {done}{'' if total is None else f'/{total}'} {note}".rstrip()
        if time.monotonic() - self._last_line >= PLAIN_SECONDS:
            self.say(self._line)
            self._last_line = time.monotonic()

    def say(self, text: str) -> None:
        """Print a line that stays, above the bar where there is one."""
        console.print(text, markup=False)


def say(text: str = "", *, end: str = "\n") -> None:
    """Print one line of result, or with ``end`` a part of one."""
    console.print(text, markup=False, end=end)


def say_error(text: str) -> None:
    """Print one line about what went wrong, on stderr."""
    errors.print(Text.assemble(("error:", "bold red"), f" {text}"))


def say_warning(text: str) -> None:
    """Print one line about what a user should know, on stderr."""
    errors.print(Text.assemble(("warning:", "yellow"), f" {text}"))


def is_unread() -> bool:
    """Tell whether stdout or stderr is a pipe whose reader is gone."""
    poll = select.poll()
    for stream in _open_streams():
        poll.register(stream, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def leave_unread() -> NoReturn:
    """Exit as a program does that a closed pipe has ended; what is still buffered goes nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in _open_streams():
        os.dup2(nowhere, stream.fileno())
    sys.exit(EXIT_UNREAD)


def _open_streams() -> list[IO[str]]:
    return [stream for stream in (sys.stdout, sys.stderr) if stream is not None and not stream.closed]
