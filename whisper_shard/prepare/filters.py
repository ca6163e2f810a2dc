"""Filters decide which utterances go into the dataset.

A filter sees one prepared utterance and returns a rejection, made by `Utterance.reject`, or None to keep it. Rejections
are counted by reason in the report and listed with their details in rejects.parquet.

To add a filter, write a class here and name it in FILTERS, or name it in a TOML file:
``[[prepare.filters]] kind = "package.module:Class"``.
"""

from dataclasses import dataclass
from typing import Protocol

from whisper_shard.config.plugins import build_plugins
from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.errors import ConfigError
from whisper_shard.text.tokens import open_tokenizer
from whisper_shard.utterance import ManifestRow, Rejection, Utterance


class Filter(Protocol):
    """Decides whether an utterance is kept."""

    def reject(self, utterance: Utterance) -> Rejection | None:
        """Return ``utterance.reject(reason, detail)`` to drop the utterance, or None to keep it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Duration:
    """Drop utterances that are too short or too long, both bounds excluded."""

    min_seconds: float = 1.0
    """Keep utterances longer than this."""
    max_seconds: float = 30.0
    """Keep utterances shorter than this."""

    def reject(self, utterance: Utterance) -> Rejection | None:
        """Compare the length after trimming."""
        if utterance.seconds <= self.min_seconds:
            return utterance.reject("too_short", f"{utterance.seconds:.3f} s, must be more than {self.min_seconds:g} s")
        if utterance.seconds >= self.max_seconds:
            return utterance.reject("too_long", f"{utterance.seconds:.3f} s, must be less than {self.max_seconds:g} s")
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class TextLength:
    """Drop utterances with too little or too much text; spaces at its ends do not count."""

    min_chars: int = 6
    """Fewest code points of normalized text."""
    max_chars: int = 100_000
    """Most code points of normalized text."""

    def reject(self, utterance: Utterance) -> Rejection | None:
        """Count the characters of the text."""
        return self.reject_text(utterance.text, utterance)

    def reject_text(self, text: str, source: ManifestRow | Utterance) -> Rejection | None:
        """Return the rejection of a row or an utterance for its normalized text, or None."""
        num_chars = len(text.strip())
        if num_chars < self.min_chars:
            return source.reject("text_too_short", f"{num_chars} characters, need {self.min_chars}")
        if num_chars > self.max_chars:
            return source.reject("text_too_long", f"{num_chars} characters, limit {self.max_chars}")
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLength:
    """Drop utterances whose text, with language, task and other tokens before it, does not fit into the decoder."""

    tokenizer: str
    """Folder of a model, with its tokenizer.json."""

    def __post_init__(self) -> None:
        """Open the tokenizer, once in each process."""
        open_tokenizer(self.tokenizer)

    def reject(self, utterance: Utterance) -> Rejection | None:
        """Count the tokens of the text."""
        return self.reject_text(utterance.text, utterance, language=utterance.row.language)

    def reject_text(self, text: str, source: ManifestRow | Utterance, *, language: str | None) -> Rejection | None:
        """Return the rejection of a row or an utterance for its normalized text, or None."""
        counter = open_tokenizer(self.tokenizer)
        num_tokens = counter.count(text, language)
        if num_tokens > counter.max_tokens:
            return source.reject("too_many_tokens", f"{num_tokens} tokens with the prefix, limit {counter.max_tokens}")
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
        """Check the order of the bounds."""
        if not 0 <= self.min_chars_per_second < self.max_chars_per_second:
            raise ConfigError(
                f"speaking_rate: min_chars_per_second {self.min_chars_per_second:g} must lie below "
                f"max_chars_per_second {self.max_chars_per_second:g}"
            )

    def reject(self, utterance: Utterance) -> Rejection | None:
        """Divide characters by seconds."""
        rate = len(utterance.text) / utterance.seconds
        if rate < self.min_chars_per_second:
            return utterance.reject("too_slow", f"{rate:.1f} characters/s, need {self.min_chars_per_second:g}")
        if rate > self.max_chars_per_second:
            return utterance.reject("too_fast", f"{rate:.1f} characters/s, limit {self.max_chars_per_second:g}")
        return None


FILTERS: dict[str, type[Filter]] = {
    "duration": Duration,
    "text_length": TextLength,
    "speaking_rate": SpeakingRate,
}


def build_filters(config: PrepareConfig) -> tuple[Filter, ...]:
    """Return the filter by duration, which every run has, then those of ``[[prepare.filters]]``.

    Raises:
        ConfigError: An unknown kind or a parameter it does not take.
    """
    duration = Duration(min_seconds=config.min_seconds, max_seconds=config.max_seconds)
    return (duration, *build_plugins(config.filters, FILTERS, where="filters"))
