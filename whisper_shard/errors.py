"""Every error a user can meet, each one line: where, what with its value, what to do.

WhisperShardError            exit code 1
|-- ConfigError              a flag, a TOML file or a combination of settings
|-- ManifestError            the input list: missing, wrong columns, nothing usable
|-- AudioError               one recording cannot be decoded (prepare turns it into a Rejection)
|-- TextError                one transcript cannot be normalized (prepare turns it into a Rejection)
|-- DatasetError             shards, index or dataset.json: missing, damaged, of another version
|-- StateError               a checkpoint or receipt that belongs to something else
|   `-- InUseError           a folder that another process is writing to
|-- ModelError               a model folder that cannot be used
|-- ExportError              an export that a format cannot hold, or whose text differs from the model's
|-- TrainingError            training cannot go on: loss not finite, labels too long ...
|-- StopRequested            exit code 75 or 130: stopped on request with all state saved
`-- EnvironmentFault         exit code 3: disk full, no permission, broken installation; never the data's fault
"""

import difflib
from collections.abc import Sequence

EXIT_ERROR = 1
EXIT_ENVIRONMENT = 3
EXIT_AGAIN = 75
"""Stopped on request with all state saved: run the same command again. Source: EX_TEMPFAIL of sysexits.h."""
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141
"""The output was closed by its reader, as by ``| head``: the exit code that a shell reports after SIGPIPE."""


class WhisperShardError(Exception):
    """Base of all errors meant for users; its text is one line."""

    exit_code = EXIT_ERROR


class ConfigError(WhisperShardError):
    """A flag, a TOML file or a combination of settings that is not possible."""


class ManifestError(WhisperShardError):
    """The input list is missing, has the wrong columns, or has no usable row."""


class AudioError(WhisperShardError):
    """One recording cannot be decoded."""

    def __init__(self, message: str, *, reason: str = "decode_failed") -> None:
        super().__init__(message)
        self.reason = reason


class TextError(WhisperShardError):
    """One transcript cannot be normalized."""

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class DatasetError(WhisperShardError):
    """A dataset that is missing, damaged, unfinished or of another version."""


class StateError(WhisperShardError):
    """A checkpoint, receipt or plan state that belongs to other data or settings."""


class InUseError(StateError):
    """Another process is writing to the folder."""


class ModelError(WhisperShardError):
    """A model folder that is missing, incomplete or of another kind."""


class ExportError(WhisperShardError):
    """A model cannot be exported to a format, or the export transcribes differently."""


class TrainingError(WhisperShardError):
    """Training cannot go on, or cannot begin."""


class StopRequested(WhisperShardError):
    """SIGTERM or SIGHUP (exit code 75: run the same command again) or Ctrl-C (130) ended the work; all is saved."""

    def __init__(self, message: str, *, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class EnvironmentFault(WhisperShardError):
    """The machine's fault, not the data's: disk full, no permission, broken installation."""

    exit_code = EXIT_ENVIRONMENT


def suggest(word: str, known: Sequence[str]) -> str:
    """Return ``; did you mean 'nearest'?``, or nothing where nothing is near."""
    nearest = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"; did you mean {nearest[0]!r}?" if nearest else ""
