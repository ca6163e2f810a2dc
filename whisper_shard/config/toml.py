"""A configuration written as TOML."""

from typing import Any

import tomli_w

from whisper_shard.config.settings import flatten_settings


def dump_config(config: Any, command: str) -> str:
    """Return TOML that gives the same configuration when passed to ``--config``."""
    return tomli_w.dumps({command: flatten_settings(config)})
