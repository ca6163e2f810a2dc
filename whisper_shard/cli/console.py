"""Output for people: progress as a bar or as plain lines, and one line for each error or warning."""

import os
import select
import sys
import time
from collections.abc import Iterable, Sequence, Set
from types import TracebackType
from typing import IO, Literal, NoReturn

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.table import Column, Table
from rich.text import Text

from whisper_shard.errors import EXIT_BROKEN_PIPE

_FILE_WIDTH = 10_000  # columns of a table that is not printed on a terminal
PLAIN_SECONDS = 30.0
"""Without a terminal, progress is printed as a line every 30 seconds."""


class _Output(Console):
    """A stream of lines: stdout or stderr."""

    def on_broken_pipe(self) -> NoReturn:
        """Exit quietly: whoever read the output has stopped reading."""
        exit_on_closed_output()


# No markup and no emoji codes: file names and transcripts may contain [brackets] and :smile:.
console = _Output(highlight=False, soft_wrap=True, emoji=False)
errors = _Output(stderr=True, highlight=False, soft_wrap=True, emoji=False)


class Progress:
    """A progress bar on a terminal; elsewhere a line every 30 seconds and one at the end.

    Use as a context manager; `update` may be called as often as you like.

    Args:
        title: What is under way.
        shows_remaining: Whether the bar estimates the time that is left; without it, the note may.
    """

    def __init__(self, title: str, *, shows_remaining: bool = True) -> None:
        self._title = title
        self._is_live = console.is_terminal and not console.is_dumb_terminal
        self._last_line_time = time.monotonic()
        self._line = ""
        self._task: TaskID | None = None
        self._bar = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=12),
            MofNCompleteColumn(),
            # Only the note is shortened in a narrow terminal.
            TextColumn("{task.fields[note]}", markup=False, table_column=Column(ratio=1, no_wrap=True)),
            TimeElapsedColumn(),
            *([TimeRemainingColumn()] if shows_remaining else []),
            console=console,
            transient=True,
            expand=True,
        )

    def __enter__(self) -> "Progress":
        if self._is_live:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_live:
            self._bar.stop()
        elif kind is None and self._line:
            self.say(self._line)

    def update(self, done: int, total: int | None, note: str = "") -> None:
        """Show the progress.

        Args:
            done: Units finished.
            total: All units, or None where their number is not known.
            note: Further text, such as the unit and the speed.
        """
        if self._is_live:
            if self._task is None:
                self._task = self._bar.add_task(self._title, total=total, note=note)
            self._bar.update(self._task, completed=done, total=total, note=note)
            return
        self._line = f"{self._title}: {done}{'' if total is None else f'/{total}'} {note}".rstrip()
        if time.monotonic() - self._last_line_time >= PLAIN_SECONDS:
            self.say(self._line)
            self._last_line_time = time.monotonic()

    def wait(self, note: str) -> None:
        """Show on a terminal what is under way while there is nothing to count yet."""
        if self._is_live:
            self.update(0, None, note)

    def say(self, text: str) -> None:
        """Print a line that stays, above the bar where there is one."""
        console.print(text, markup=False)


def say(text: str = "", *, end: str = "\n") -> None:
    """Print text to stdout."""
    console.print(text, markup=False, end=end)


def say_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table to stdout; cells are wrapped on a terminal only, so that a line of a file is a row."""
    table = Table(*(Column(Text(cell)) for cell in header), box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*(Text(cell, overflow="fold") for cell in row))
    output = console if console.is_terminal else _Output(width=_FILE_WIDTH, emoji=False)
    output.print(table)


Block = str | Table
"""Lines of text, or a table."""


def show(part: Block) -> None:
    """Print text, or a table that fits into the terminal."""
    if isinstance(part, str):
        say(part)
    else:
        console.print(part, soft_wrap=False)


def make_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: Set[str]) -> Table:
    """Return a table whose last column is cut off where the terminal ends.

    Args:
        title: What is shown.
        columns: Heads.
        rows: Cells, as they are: no markup.
        numbers: Those of the columns that are aligned to the right.
    """
    table = Table(title=Text(title), title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    for head in columns:
        # Of columns that may wrap, here the last alone, rich takes away first what is too much.
        justify: Literal["left", "right"] = "right" if head in numbers else "left"
        table.add_column(Text(head), justify=justify, no_wrap=head != columns[-1])
    for row in rows:
        table.add_row(*(Text(cell, no_wrap=True, overflow="ellipsis") for cell in row))
    return table


def say_error(text: str) -> None:
    """Print a line about an error to stderr."""
    errors.print(Text.assemble(("error:", "bold red"), f" {text}"))


def say_warning(text: str) -> None:
    """Print a line about something that the user should know to stderr."""
    errors.print(Text.assemble(("warning:", "yellow"), f" {text}"))


def is_output_closed() -> bool:
    """Return whether stdout or stderr is a pipe that nobody reads any more."""
    poll = select.poll()
    for stream in _open_streams():
        poll.register(stream, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def exit_on_closed_output() -> NoReturn:
    """Exit as a program does that SIGPIPE has ended; text that is still buffered is discarded."""
    null_device = os.open(os.devnull, os.O_WRONLY)
    for stream in _open_streams():
        os.dup2(null_device, stream.fileno())
    sys.exit(EXIT_BROKEN_PIPE)


def _open_streams() -> list[IO[str]]:
    return [stream for stream in (sys.stdout, sys.stderr) if stream is not None and not stream.closed]
