"""Lists of filters, decoders and augmentations in TOML become objects."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

from whisper_shard.config.settings import list_settings
from whisper_shard.errors import ConfigError, suggest

PluginTables = tuple[Mapping[str, Any], ...]
"""Tables ``{kind = ..., parameter = ...}``, one for each filter, decoder or augmentation."""
Plugin = TypeVar("Plugin")


def list_plugin_settings(kind: type) -> dict[str, PluginTables]:
    """Return the default of each setting that is a list of plugins, by its name; only TOML can give them."""
    lists = {name: field for name, field in list_settings(kind).items() if field.type == PluginTables}
    return {name: cast(PluginTables, field.default) for name, field in lists.items()}


def build_plugins(
    tables: PluginTables, family: Mapping[str, Callable[..., Plugin]], *, where: str
) -> tuple[Plugin, ...]:
    """Make one object from each table, by its ``kind`` and its parameters.

    Args:
        tables: Tables as TOML gives them.
        family: The known kinds.
        where: Name of the list, for errors: ``filters``.

    Raises:
        ConfigError: A table without kind, an unknown kind (with the nearest known), or wrong parameters.
    """
    return tuple(_build(table, family, f"{where}[{position}]") for position, table in enumerate(tables))


def _build(table: Mapping[str, Any], family: Mapping[str, Callable[..., Plugin]], where: str) -> Plugin:
    if not isinstance(kind := table.get("kind"), str):
        raise ConfigError(f"{where}: needs a kind, one of {', '.join(family)}, or package.module:Class")
    parameters = {name: value for name, value in table.items() if name != "kind"}
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
