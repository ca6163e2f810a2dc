"""What a person sees, letter by letter."""

import pytest

from whisper_shard.console import say, say_error, say_warning

NAME = r"a[bold]b[/] c\[0] :smile: 10:100: d\\"


@pytest.mark.parametrize("show", [say, say_error, say_warning])
def test_names_are_shown_as_they_are(show, capsys):
    show(NAME)
    shown = capsys.readouterr()
    assert NAME in shown.out + shown.err
