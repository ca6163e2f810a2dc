"""Filters choose which utterances are worth a place in the dataset.

A filter looks at one prepared utterance and answers with the reason to drop it, or None to keep it. A reason begins
with a code in snake_case, which is counted in the report; what follows a colon is its detail, for a human. Nothing is
dropped without a trace.

To add a filter, write a class here and name it in FILTERS, or name it in a TOML file:
``[[prepare.filters]] kind = "package.module:Class"``.
"""

from dataclasses import dataclass
from typing import Protocol

from whisper_shard.config.plugins import build_steps
from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.errors import ConfigError
from whisper_shard.utterance import Utterance


class Filter(Protocol):
    """Keep, or a reason."""

    def reject(self, utterance: Utterance) -> str | None:
        """Return ``code: detail`` to drop the utterance, or None to keep it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Duration:
    """Drop utterances that are too short or too long, both bounds excluded."""

    min_seconds: float = 1.0
    """Keep what is longer than this."""
    max_seconds: float = 30.0
    """Keep what is shorter than this."""

    def reject(self, utterance: Utterance) -> str | None:
        """Compare the length after trimming."""
        if utterance.seconds <= self.min_seconds:
            return f"too_short: {utterance.seconds:.3f} s, must be more than {self.min_seconds:g} s"
        if utterance.seconds >= self.max_seconds:
            return f"too_long: {utterance.seconds:.3f} s, must be less than {self.max_seconds:g} s"
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class TextLength:
    """Drop utterances with too little or too much text."""

    min_chars: int = 6
    """Fewest code points of normalized text."""
    max_chars: int = 100_000
    """Most code points of normalized text."""

    def reject(self, utterance: Utterance) -> str | None:
        """Count code points."""
        num_chars = len(utterance.text)
        if num_chars < self.min_chars:
            return f"text_too_short: {num_chars} characters, need {self.min_chars}"
        if num_chars > self.max_chars:
            return f"text_too_long: {num_chars} characters, limit {self.max_chars}"
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeakingRate:
    """Drop utterances spoken implausibly slowly or fast.

    A transcript that belongs to other audio usually shows up here first.
    """

    min_chars_per_second: float = 3.0
    """Slower than this and the text is probably cut short."""
    max_chars_per_second: float = 30.0
    """Faster than this and the audio is probably cut short."""

    def __post_init__(self) -> None:
        """Refuse bounds that leave nothing."""
        if not 0 <= self.min_chars_per_second < self.max_chars_per_second:
            raise ConfigError(
                f"speaking_rate: min_chars_per_second {self.min_chars_per_second:g} must lie below "
                f"max_chars_per_second {self.max_chars_per_second:g}"
            )

    def reject(self, utterance: Utterance) -> str | None:
        """Divide characters by seconds."""
        rate = len(utterance.text) / utterance.seconds
        if rate < self.min_chars_per_second:
            return f"too_slow: {rate:.1f} characters/s, need {self.min_chars_per_second:g}"
        if rate > self.max_chars_per_second:
            return f"too_fast: {rate:.1f} characters/s, limit {self.max_chars_per_second:g}"
        return None


FILTERS: dict[str, type[Filter]] = {
    "duration": Duration,
    "text_length": TextLength,
    "speaking_rate": SpeakingRate,
}


def build_filters(config: PrepareConfig) -> tuple[Filter, ...]:
    """Return the filters every run has, then those of ``[[prepare.filters]]``.

    Raises:
        ConfigError: An unknown kind or a parameter it does not take.
    """
    duration = Duration(min_seconds=config.min_seconds, max_seconds=config.max_seconds)
    return (duration, *build_steps(config.filters, FILTERS, where="filters"))
