"""What a format of `export` is."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from whisper_shard.errors import ExportError
from whisper_shard.model.whisper import LoadedWhisper


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportFormat:
    """One format: which numbers it can hold, and the function that writes it."""

    tool: str
    """What reads it, for messages."""
    dtypes: tuple[str, ...]
    """Number formats of the weights; the first is the default."""
    write: Callable[[LoadedWhisper, Path, str], None]
    """Writes a model into an empty folder, in one of the number formats."""

    def choose_dtype(self, wanted: str, name: str) -> str:
        """Return the number format called ``wanted``; empty: the default.

        Raises:
            ExportError: The format cannot hold it.
        """
        if wanted and wanted not in self.dtypes:
            raise ExportError(f"--quantize {wanted}: format {name} cannot hold it; use one of {', '.join(self.dtypes)}")
        return wanted or self.dtypes[0]
