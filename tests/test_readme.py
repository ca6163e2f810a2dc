"""The commands that the documents show exist, with the flags they are shown with."""

import re
import shlex
from pathlib import Path

import pytest

from whisper_shard.cli.flags import load_config
from whisper_shard.cli.main import COMMANDS

DOCUMENTS = [
    Path("README.md"),
    Path("CONTRIBUTING.md"),
    *sorted(Path("docs").glob("*.md")),
    *sorted(Path("configs").glob("*.toml")),
]


def shown_commands():
    for document in DOCUMENTS:
        text = document.read_text().replace("\\\n#", " ").replace("\\\n", " ")
        for line in re.findall(r"^(?:#|\$)? *((?:\.venv/bin/|bin/)?whisper-shard [a-z].*)$", text, flags=re.MULTILINE):
            yield pytest.param(line.split("  #")[0], id=f"{document}: {line[:60]}")


@pytest.mark.parametrize("line", list(shown_commands()))
def test_shown_commands_parse(line):
    _, name, *argv = shlex.split(line)
    assert name in COMMANDS
    if "COMMAND" not in line and "--help" not in argv:
        command = COMMANDS[name]
        argv = [word.replace("recipe.toml", "configs/guide.toml") for word in argv if word != "..."]
        names = {"positionals": command.positionals, "repeated": command.repeated, "replaced": command.replaced}
        load_config(command.config, command=name, argv=argv, **names)


def test_no_blank_is_left_to_fill_in():
    for document in DOCUMENTS:
        assert "@@" not in document.read_text(), document


def test_shown_make_targets_exist():
    targets = set(re.findall(r"^([a-z-]+):", Path("Makefile").read_text(), flags=re.MULTILINE))
    for document in DOCUMENTS:
        shown = re.findall(r"^(?: {4}|\$ |`)make ([a-z-]+)", document.read_text(), flags=re.MULTILINE)
        assert set(shown) <= targets, document


def test_shown_files_exist():
    for document in DOCUMENTS[:2] + DOCUMENTS[2:]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document} points to {target}"
