"""Settings by name: the name of a flag and of a TOML key is that of the field, whatever group the field is in.

A configuration is a frozen dataclass; fields that are dataclasses themselves are groups. Groups give settings a home in
the code and a section in ``--help``. In files and flags all settings are side by side.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from whisper_shard.errors import ConfigError, suggest

Config = TypeVar("Config")


def list_settings(kind: type) -> dict[str, dataclasses.Field[Any]]:
    """Return the field of every setting of a configuration class by its name, in order."""
    settings: dict[str, dataclasses.Field[Any]] = {}
    for field in dataclasses.fields(kind):
        group = _group_of(field)
        settings |= list_settings(group) if group else {field.name: field}
    return settings


def flatten_settings(config: Any) -> dict[str, Any]:
    """Return the value of every setting of a configuration by its name, in order."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        values |= flatten_settings(value) if _group_of(field) else {field.name: value}
    return values


def replace_settings(config: Config, changes: Mapping[str, Any]) -> Config:
    """Return a configuration with some settings changed.

    Args:
        config: A configuration, with groups or without.
        changes: New values by the name of the setting.

    Raises:
        ConfigError: There is no setting of this name, or its value is out of range.
    """
    known = list_settings(type(config))
    for name in changes:
        if name not in known:
            raise ConfigError(f"there is no setting {name!r}{suggest(name, list(known))}")
    changed: Config = _replace(config, changes)
    return changed


def _replace(config: Any, changes: Mapping[str, Any]) -> Any:
    values = {}
    for field in dataclasses.fields(config):
        if _group_of(field):
            values[field.name] = _replace(getattr(config, field.name), changes)
        elif field.name in changes:
            values[field.name] = changes[field.name]
    return dataclasses.replace(config, **values)


def _group_of(field: dataclasses.Field[Any]) -> type | None:
    """Return the class of a group, None for a setting."""
    return field.type if isinstance(field.type, type) and dataclasses.is_dataclass(field.type) else None
