"""Output arrives unchanged, and progress fits the terminal."""

import io

import pytest

from whisper_shard.cli import console
from whisper_shard.cli.console import Progress, say, say_error, say_warning

NAME = r"a[bold]b[/] c\[0] :smile: 10:100: d\\"


@pytest.mark.parametrize("show", [say, say_error, say_warning])
def test_names_are_shown_as_they_are(show, capsys):
    show(NAME)
    shown = capsys.readouterr()
    assert NAME in shown.out + shown.err


def show_progress(monkeypatch, terminal):
    monkeypatch.setenv("TERM", terminal)
    screen = io.StringIO()
    monkeypatch.setattr(console, "console", type(console.console)(file=screen, force_terminal=True, width=80))
    with Progress("training") as progress:
        progress.update(
            8, 1500, "steps; loss 7.592, lr 1.0e-05, 27.2 utterances/s, 36 x real time, 0% waiting for data"
        )
    return screen.getvalue()


def test_a_narrow_terminal_cuts_the_note_and_nothing_else(monkeypatch):
    shown = show_progress(monkeypatch, "xterm")
    assert "training" in shown and "   8/1500" in shown and "steps; loss 7.592" in shown and "waiting for" not in shown


def test_a_terminal_that_draws_no_bar_gets_lines(monkeypatch):
    shown = show_progress(monkeypatch, "dumb")
    assert shown.startswith("training: 8/1500 steps; loss") and "\x1b" not in shown


def test_without_a_terminal_progress_is_a_line_in_a_while_and_one_at_the_end(monkeypatch, capsys):
    times = iter([0, 10, 31, 45])
    monkeypatch.setattr(console.time, "monotonic", lambda: next(times))
    with Progress("preparing") as progress:
        progress.update(1, 3, "rows")
        progress.update(2, 3, "rows")
        times = iter([40])
        progress.update(3, None)
    assert capsys.readouterr().out.splitlines() == ["preparing: 2/3 rows", "preparing: 3"]


def test_progress_that_ends_with_an_error_prints_no_last_line(capsys):
    with pytest.raises(ValueError, match="x"), Progress("preparing") as progress:
        progress.update(1, 3)
        raise ValueError("x")
    assert capsys.readouterr().out == ""


def test_a_terminal_says_at_once_what_is_waited_for_and_a_file_does_not(monkeypatch, capsys):
    monkeypatch.setenv("TERM", "xterm")
    screen = io.StringIO()
    with monkeypatch.context() as patch:
        patch.setattr(console, "console", type(console.console)(file=screen, force_terminal=True, width=80))
        with console.Progress("training") as progress:
            progress.wait("opening data and model")
    assert "opening data and model" in screen.getvalue()
    with console.Progress("training") as progress:
        progress.wait("opening data and model")
    assert capsys.readouterr().out == ""


def test_the_time_left_is_shown_once(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    columns = {}
    for shows_remaining in (True, False):
        progress = Progress("x", shows_remaining=shows_remaining)
        columns[shows_remaining] = {type(column).__name__ for column in progress._bar.columns}
    assert columns[True] - columns[False] == {"TimeRemainingColumn"}
