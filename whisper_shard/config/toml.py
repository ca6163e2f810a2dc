"""A configuration written as TOML."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from whisper_shard.config.plugins import Steps


def is_steps(kind: type, name: str) -> bool:
    """Tell whether a knob is a list of steps, which only TOML can give."""
    return name in steps_of(kind)


def steps_of(kind: type) -> dict[str, Any]:
    """Return the default of each list of steps."""
    return {field.name: field.default for field in dataclasses.fields(kind) if field.type == Steps}


def dump_config(config: Any, command: str) -> str:
    """Return TOML that, given back with ``--config``, sets every knob as it is in ``config``."""
    leaves, tables = [f"[{command}]"], []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if not is_steps(type(config), field.name):
            leaves.append(f"{field.name} = {_toml_value(value)}")
        elif not value:
            leaves.append(f"{field.name} = []")
        for step in value if is_steps(type(config), field.name) else ():
            tables += [
                "",
                f"[[{command}.{field.name}]]",
                *(f"{key} = {_toml_value(item)}" for key, item in step.items()),
            ]
    return "\n".join([*leaves, *tables]) + "\n"


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name} = {_toml_value(item)}" for name, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_toml_value, value))}]"
    return repr(value)
