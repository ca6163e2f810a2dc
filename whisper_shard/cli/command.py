"""What defines a subcommand: its settings, its arguments and the function that runs it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

DATASET = {"dataset": "folder of a prepared dataset, such as data/train"}
"""The argument of commands that read a dataset."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One subcommand."""

    config: type[Any]
    """Class of its settings; the first line of the docstring is its help text."""
    positionals: Mapping[str, str]
    """Help text of each required argument, by name."""
    replaced: Mapping[str, str] = field(default_factory=dict)
    """Arguments that are left out, and empty, where a setting is given: the setting by the name of the argument."""
    repeated: str = ""
    """Name of the argument that may be given several times, and is a tuple; empty: none."""
    has_urls: bool = True
    """Whether an argument may lie in object storage."""
    run: Callable[..., int]
    """Takes the settings, and the arguments by name; returns the exit code."""
