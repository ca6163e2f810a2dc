"""What a subcommand consists of."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

DATASET = {"dataset": "folder of a prepared dataset, such as data/train"}
"""The positional argument of the commands that read a dataset."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One subcommand."""

    config: type[Any]
    """Its settings; the first line of the docstring is its help text."""
    positionals: Mapping[str, str]
    """Its required arguments and their help."""
    run: Callable[..., int]
    """Takes the configuration and the positional arguments by name; returns the exit code."""
