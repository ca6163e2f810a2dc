"""Folders of this machine for what lies in object storage; each may be removed while nothing uses it."""

import hashlib
import os
from pathlib import Path
from typing import Literal

from whisper_shard.storage.location import Location


def cache_folder() -> Path:
    """Return the user's cache folder: ``$XDG_CACHE_HOME/whisper-shard``, else ``~/.cache/whisper-shard``."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "whisper-shard"


def work_folder(kind: Literal["prepare", "runs"], location: Location) -> Path:
    """Return the folder in which an output or a run in a bucket is made; always the same for the same location."""
    name = f"{location.name}-{hashlib.sha256(str(location).encode()).hexdigest()[:16]}"
    return cache_folder() / kind / name
