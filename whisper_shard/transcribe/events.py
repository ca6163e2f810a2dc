"""The events of `transcribe`, small and frozen, for display."""

from collections.abc import Sequence
from dataclasses import dataclass

from whisper_shard.transcribe.formats import TranscriptSegment


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """A recording was decoded and is being transcribed."""

    name: str
    """Of the recording."""
    seconds: float
    """Its length."""
    speech_seconds: float | None
    """Length of the windows around speech; None: windows are led by times."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """Some more of a recording was transcribed."""

    name: str
    """Of the recording."""
    language: str
    """Whisper's code; empty: an English-only model."""
    segments: Sequence[TranscriptSegment]
    """What is new."""
    position_seconds: float
    """Up to where the recording is transcribed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The transcript of a recording is complete."""

    name: str
    """Of the recording."""
    seconds: float
    """Its length."""
    files: Sequence[str]
    """What was written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A recording was transcribed by an earlier run, with the same model and settings."""

    name: str
    """Of the recording."""
    seconds: float
    """Its length."""
    files: Sequence[str]
    """What was missing and is written now, from what the earlier run had found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Redone:
    """A recording is transcribed anew, because something changed since an earlier run."""

    name: str
    """Of the recording."""
    cause: str
    """What changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """A recording cannot be transcribed; the others are."""

    name: str
    """Of the recording."""
    cause: str
    """One line."""


Event = Begun | Heard | Finished | Kept | Redone | Failed
"""Everything that can happen to a recording."""
