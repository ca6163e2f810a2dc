"""Lists of filters, decoders and augmentations in TOML become objects."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from whisper_shard.errors import ConfigError, suggest

Steps = tuple[Mapping[str, Any], ...]
"""A list of ``{kind = ..., parameter = ...}`` tables."""
Step = TypeVar("Step")


def build_steps(steps: Steps, family: Mapping[str, Callable[..., Step]], *, where: str) -> tuple[Step, ...]:
    """Make one object from each table, by its ``kind`` and its parameters.

    Args:
        steps: Tables as TOML gives them.
        family: The kinds there are.
        where: Name of the list, for errors: ``filters``.

    Raises:
        ConfigError: A table without kind, an unknown kind (with the nearest known), or wrong parameters.
    """
    return tuple(_build(step, family, f"{where}[{position}]") for position, step in enumerate(steps))


def _build(step: Mapping[str, Any], family: Mapping[str, Callable[..., Step]], where: str) -> Step:
    if not isinstance(kind := step.get("kind"), str):
        raise ConfigError(f"{where}: needs a kind, one of {', '.join(family)}, or package.module:Class")
    parameters = {name: value for name, value in step.items() if name != "kind"}
    make = _import(kind, where) if ":" in kind else family.get(kind)
    if make is None:
        hint = suggest(kind, list(family)) or f"; there are {', '.join(family)}"
        raise ConfigError(f"{where}: unknown kind {kind!r}{hint}")
    try:
        return make(**parameters)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: kind {kind!r} does not take {parameters}: {error}") from error


def _import(kind: str, where: str) -> Any:
    module, _, name = kind.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"{where}: cannot import kind {kind!r}: {error}; is it installed, or its folder named in PYTHONPATH?"
        ) from error
