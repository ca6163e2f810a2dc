r"""Rules of ``--text-style regex``: expressions and their replacements, or other styles, applied one after the other.

[[prepare.text_rules]]
pattern = '\\[[^\\]]*\\]'
replacement = " "

[[prepare.text_rules]]
style = "basic"
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import regex

from whisper_shard.errors import ConfigError, TextError, suggest

RULE_SECONDS = 1.0
"""Longest time that one rule may take for one text: some expressions take years for texts that they do not fit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One expression and what replaces it."""

    number: int
    """Position in the list, from 0."""
    pattern: Any
    """Compiled by the library `regex`."""
    replacement: str
    r"""May refer to groups, as in ``\1``."""

    def __call__(self, text: str) -> str:
        """Replace each match.

        Raises:
            TextError: It takes longer than RULE_SECONDS (``text_rule_timeout``).
        """
        try:
            replaced: str = self.pattern.sub(self.replacement, text, timeout=RULE_SECONDS)
        except TimeoutError as error:
            raise TextError(
                f"text_rules[{self.number}]: {self.pattern.pattern!r} takes longer than {RULE_SECONDS:g} s for this "
                "text; it tries too many ways to match",
                reason="text_rule_timeout",
            ) from error
        return replaced


def build_rules(
    tables: Sequence[Mapping[str, Any]], styles: Mapping[str, Callable[[str], str]]
) -> tuple[Callable[[str], str], ...]:
    """Return the rules of a TOML file.

    Args:
        tables: Each with ``pattern`` and ``replacement``, or with ``style``.
        styles: The styles that a rule may name.

    Raises:
        ConfigError: A table of another shape, a pattern or replacement that is no expression, or an unknown style.
    """
    return tuple(_build(number, table, styles) for number, table in enumerate(tables))


def _build(number: int, table: Mapping[str, Any], styles: Mapping[str, Callable[[str], str]]) -> Callable[[str], str]:
    where = f"text_rules[{number}]"
    if set(table) == {"style"}:
        if table["style"] not in styles:
            hint = suggest(str(table["style"]), list(styles))
            raise ConfigError(f"{where}: unknown style {table['style']!r}{hint}; there are {', '.join(styles)}")
        return styles[table["style"]]
    if set(table) != {"pattern", "replacement"} or not all(isinstance(value, str) for value in table.values()):
        raise ConfigError(f"{where}: needs the texts pattern and replacement, or style; it has {dict(table)}")
    try:
        pattern = regex.compile(table["pattern"], regex.VERSION0)
    except regex.error as error:
        raise ConfigError(f"{where}: pattern {table['pattern']!r} is no regular expression: {error}") from error
    try:
        _check_replacement(pattern, table["replacement"])
    except (regex.error, IndexError) as error:
        raise ConfigError(
            f"{where}: replacement {table['replacement']!r} does not fit {table['pattern']!r}: {error}"
        ) from error
    return Rule(number=number, pattern=pattern, replacement=table["replacement"])


def _check_replacement(pattern: Any, replacement: str) -> None:
    """Use a replacement once, since the library finds its faults at the first match only: groups that do not exist."""
    names = {number: name for name, number in pattern.groupindex.items()}
    groups = (f"(?P<{names[i]}>)" if i in names else "()" for i in range(1, pattern.groups + 1))
    regex.sub("".join(groups), replacement, "")
