"""Filters decide which utterances go into the dataset.

A filter sees one prepared utterance and returns a rejection, made by `Utterance.reject`, or None to keep it. Rejections
are counted by reason in the report and listed with their details in rejects.parquet.

To add a filter, write a class here and name it in FILTERS, or name it in a TOML file:
``[[prepare.filters]] kind = "package.module:Class"``.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from whisper_shard.config.plugins import build_plugins
from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.errors import ConfigError
from whisper_shard.text.repeats import find_repeated_phrase
from whisper_shard.text.tokens import open_tokenizer
from whisper_shard.utterance import ManifestRow, Quality, Rejection, Utterance

DIVIDING = "; subtitles beside it, offset and duration, or (where it has no text) --segment vad divide it"
"""What can be done about a recording that is too long."""


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
            detail = f"{utterance.seconds:.3f} s, must be less than {self.max_seconds:g} s"
            return utterance.reject("too_long", detail + ("" if utterance.row.is_segment else DIVIDING))
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
            hint = "" if num_chars else "; if nobody speaks there and the transcript is empty: --empty-texts keep"
            return source.reject("text_too_short", f"{num_chars} characters, need {self.min_chars}{hint}")
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
        """Divide characters by seconds; what has no text is neither slow nor fast."""
        if not utterance.text:
            return None
        rate = len(utterance.text) / utterance.seconds
        if rate < self.min_chars_per_second:
            return utterance.reject("too_slow", f"{rate:.1f} characters/s, need {self.min_chars_per_second:g}")
        if rate > self.max_chars_per_second:
            return utterance.reject("too_fast", f"{rate:.1f} characters/s, limit {self.max_chars_per_second:g}")
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """Drop utterances that are too quiet or too loud, before levels are changed."""

    min_rms_db: float = -50.0
    """Lowest root mean square, in dB below full scale."""
    max_rms_db: float = 0.0
    """Highest root mean square, in dB below full scale."""

    def reject(self, utterance: Utterance) -> Rejection | None:
        """Compare the level."""
        level = quality_of(utterance).rms_db
        if level < self.min_rms_db:
            return utterance.reject("too_quiet", f"{level:.1f} dBFS, need {self.min_rms_db:g}")
        if level > self.max_rms_db:
            return utterance.reject("too_loud", f"{level:.1f} dBFS, limit {self.max_rms_db:g}")
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """Drop utterances whose speech hardly rises above the noise."""

    min_snr_db: float = 10.0
    """Least signal-to-noise ratio, in dB."""

    def reject(self, utterance: Utterance) -> Rejection | None:
        """Compare the signal-to-noise ratio."""
        if (ratio := quality_of(utterance).snr_db) < self.min_snr_db:
            return utterance.reject("noisy", f"signal-to-noise ratio {ratio:.1f} dB, need {self.min_snr_db:g}")
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechShare:
    """Drop utterances in which there is little speech."""

    min_speech_fraction: float = 0.3
    """Least share of the time with speech, 0 to 1."""

    def reject(self, utterance: Utterance) -> Rejection | None:
        """Compare the share of speech."""
        if (share := quality_of(utterance).speech_fraction) < self.min_speech_fraction:
            return utterance.reject("little_speech", f"{share:.1%} speech, need {self.min_speech_fraction:.1%}")
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Clipping:
    """Drop recordings whose waves are cut off at the top or bottom, whatever their level is now."""

    max_clipped_fraction: float = 0.001
    """Largest share of samples at the extremes, 0 to 1."""

    def reject(self, utterance: Utterance) -> Rejection | None:
        """Compare the share of clipped samples."""
        if (share := quality_of(utterance).clipped_fraction) > self.max_clipped_fraction:
            return utterance.reject("clipped", f"{share:.2%} of the samples, limit {self.max_clipped_fraction:.2%}")
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bandwidth:
    """Drop recordings without high frequencies, as of a telephone, whatever sampling rate their file has."""

    min_bandwidth_hz: float = 3_500.0
    """Least bandwidth, in Hz."""

    def reject(self, utterance: Utterance) -> Rejection | None:
        """Compare the bandwidth."""
        if (width := quality_of(utterance).bandwidth_hz) < self.min_bandwidth_hz:
            return utterance.reject("narrow_band", f"{width:.0f} Hz, need {self.min_bandwidth_hz:g}")
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleRate:
    """Drop recordings with a low sampling rate."""

    min_sample_rate: int = 16_000
    """Least sampling rate of the file, in Hz."""

    def reject(self, utterance: Utterance) -> Rejection | None:
        """Compare the sampling rate."""
        if utterance.recording_rate < self.min_sample_rate:
            return utterance.reject("low_sample_rate", f"{utterance.recording_rate} Hz, need {self.min_sample_rate}")
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Languages:
    """Keep only utterances of some languages."""

    languages: Sequence[str]
    """As the manifest tags them; capitals do not matter."""

    def __post_init__(self) -> None:
        """Check that it is a list."""
        if isinstance(self.languages, str) or not self.languages:
            raise ConfigError(f'languages: languages is {self.languages!r}; give a list, such as ["en", "de"]')

    def reject(self, utterance: Utterance) -> Rejection | None:
        """Look up the language of the row."""
        if (language := utterance.row.language) is None:
            return utterance.reject("no_language", "the row has none")
        if language.casefold() not in {known.casefold() for known in self.languages}:
            return utterance.reject("other_language", f"{language}, only {', '.join(self.languages)} are kept")
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class RepeatedWords:
    """Drop texts that say the same over and over, as recognizers do when they hallucinate."""

    max_words: int = 4
    """Longest phrase that is looked for, in words, 1 to 20."""
    max_repeats: int = 4
    """Most times that a phrase may stand in a row, 1 or more."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not (1 <= self.max_words <= 20 and self.max_repeats >= 1):
            raise ConfigError(
                f"repeated_words: max_words {self.max_words} must be 1 to 20, max_repeats {self.max_repeats} 1 or more"
            )

    def reject(self, utterance: Utterance) -> Rejection | None:
        """Count how often each phrase follows itself."""
        words = utterance.text.split()
        phrase = find_repeated_phrase(words, max_words=self.max_words, max_times=self.max_repeats)
        if phrase is None:
            return None
        return utterance.reject("repeated_words", f"{phrase!r} more than {self.max_repeats} times in a row")


def quality_of(utterance: Utterance) -> Quality:
    """Return what was measured on an utterance.

    Raises:
        ConfigError: Nothing was.
    """
    if utterance.quality is None:
        raise ConfigError("--no-quality: a filter needs what is not measured then; remove the flag or the filter")
    return utterance.quality


FILTERS: dict[str, type[Filter]] = {
    "duration": Duration,
    "text_length": TextLength,
    "speaking_rate": SpeakingRate,
    "level": Level,
    "noise": Noise,
    "speech_share": SpeechShare,
    "clipping": Clipping,
    "bandwidth": Bandwidth,
    "sample_rate": SampleRate,
    "languages": Languages,
    "repeated_words": RepeatedWords,
}
_MEASURED = (Level, Noise, SpeechShare, Clipping, Bandwidth)
"""Filters that need the quality."""


def build_filters(config: PrepareConfig) -> tuple[Filter, ...]:
    """Return the filter by duration, which every run has, then those of flags, then those of ``[[prepare.filters]]``.

    Raises:
        ConfigError: An unknown kind or a parameter it does not take; or a filter that needs the quality, which is not
            to be measured.
    """
    duration = Duration(min_seconds=config.min_seconds, max_seconds=config.max_seconds)
    filters = (duration, *_filters_of_flags(config), *build_plugins(config.filters, FILTERS, where="filters"))
    for step in filters:
        if isinstance(step, _MEASURED) and not config.quality:
            name = next(name for name, kind in FILTERS.items() if isinstance(step, kind))
            raise ConfigError(
                f"--no-quality: the filter {name} needs what is not measured then; remove the flag or the filter"
            )
    return filters


def _filters_of_flags(config: PrepareConfig) -> Iterator[Filter]:
    """Yield a filter for each flag that was given."""
    slowest, fastest = config.min_chars_per_second, config.max_chars_per_second
    if slowest or fastest:
        yield SpeakingRate(min_chars_per_second=slowest, max_chars_per_second=fastest or math.inf)
    if config.languages:
        yield Languages(languages=config.languages)
    if config.min_sample_rate:
        yield SampleRate(min_sample_rate=config.min_sample_rate)
    if config.min_bandwidth_hz:
        yield Bandwidth(min_bandwidth_hz=config.min_bandwidth_hz)
    if config.max_clipped_fraction < 1:
        yield Clipping(max_clipped_fraction=config.max_clipped_fraction)
    if config.min_rms_db > -120:
        yield Level(min_rms_db=config.min_rms_db)
    if config.min_speech_fraction:
        yield SpeechShare(min_speech_fraction=config.min_speech_fraction)
    if config.min_snr_db > -20:
        yield Noise(min_snr_db=config.min_snr_db)
