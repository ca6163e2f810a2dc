"""Settings by name: the name of a flag and of a TOML key is that of the field, whatever group the field is in.

A configuration is a frozen dataclass; fields that are dataclasses themselves are groups. Groups give settings a home in
the code and a section in ``--help``. In files and flags all settings are side by side.
"""

import ast
import dataclasses
import inspect
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, TypeVar

from whisper_shard.config.hints import hint_at_setting
from whisper_shard.errors import ConfigError

Config = TypeVar("Config")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """Settings that stand together in ``--help``."""

    name: str
    """One word; ``options`` for those without a section."""
    description: str
    """What they are about; empty: the name says it."""
    fields: tuple[dataclasses.Field[Any], ...]
    """The settings, in order."""


def list_settings(kind: type) -> dict[str, dataclasses.Field[Any]]:
    """Return the field of every setting of a configuration class by its name, in order."""
    settings: dict[str, dataclasses.Field[Any]] = {}
    for field in dataclasses.fields(kind):
        group = _group_of(field)
        settings |= list_settings(group) if group else {field.name: field}
    return settings


def list_sections(kind: type) -> list[Section]:
    """Return the sections of a configuration class: its groups, and those that its SECTIONS begin.

    SECTIONS, where a class has it, is a mapping from the first setting of each section to the name of the section.
    """
    begins: Mapping[str, str] = getattr(kind, "SECTIONS", {})
    found: dict[str, list[dataclasses.Field[Any]]] = {}
    descriptions: dict[str, str] = {}
    name = "options"
    for field in dataclasses.fields(kind):
        name = begins.get(field.name, name)
        if group := _group_of(field):
            found[field.name], descriptions[field.name] = list(list_settings(group).values()), group.__doc__ or ""
        else:
            found.setdefault(name, []).append(field)
    return [
        Section(name=name, description=descriptions.get(name, ""), fields=tuple(fields))
        for name, fields in sorted(found.items(), key=lambda item: item[0] != "options")
    ]


def describe_settings(kind: type) -> dict[str, str]:
    """Return the docstring of every setting of a configuration class by its name."""
    texts: dict[str, str] = {}
    for group in (kind, *filter(None, map(_group_of, dataclasses.fields(kind)))):
        (node,) = ast.parse(inspect.cleandoc(inspect.getsource(group))).body
        body = node.body if isinstance(node, ast.ClassDef) else []
        for before, after in pairwise(body):
            if isinstance(before, ast.AnnAssign) and isinstance(before.target, ast.Name):
                texts[before.target.id] = _text_of(after)
    return texts


def _text_of(node: ast.stmt) -> str:
    return str(node.value.value) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) else ""


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
            raise ConfigError(f"there is no setting {name!r}{hint_at_setting(name, list(known))}")
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
