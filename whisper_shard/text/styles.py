"""Normalization of transcripts for training, in every script.

To add a style, write a function and add it to TEXT_STYLES and to `config.prepare.TextStyle`.
"""

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from whisper_shard.text.rules import build_rules
from whisper_shard.text.whisper import whisper_normalizer

_SPACES = re.compile(r"\s+")
_ASCII_UNWANTED = re.compile(r"[^a-z0-9\s]")
_JOINERS = "\u200c\u200d"
"""Zero-width joiners, which belong to the spelling in Persian and in the scripts of India."""


def clean_basic(transcript: str) -> str:
    """Keep letters, marks and digits of every script, in lower case, with single spaces between words.

    For ASCII text this equals the guide's ``normalize_text``: punctuation is removed without leaving a space.
    """
    if transcript.isascii():
        return _SPACES.sub(" ", _ASCII_UNWANTED.sub("", transcript.lower())).strip()
    lowered = unicodedata.normalize("NFC", transcript).lower()
    return _SPACES.sub(" ", lowered.translate(_KEPT)).strip()


def clean_written(transcript: str) -> str:
    """Keep case and punctuation; compose characters (NFC), remove control characters, collapse spaces."""
    if not transcript.isascii():
        transcript = unicodedata.normalize("NFC", transcript)
    return "".join(c for c in _SPACES.sub(" ", transcript).strip() if c in _JOINERS or not _is_control(c))


def clean_nothing(transcript: str) -> str:
    """Return the transcript as it is."""
    return transcript


def clean_whisper_basic(transcript: str) -> str:
    """Apply Whisper's normalizer of all languages: like `clean_basic`, but signs become spaces and marks are lost.

    What stands in brackets or parentheses is removed.
    """
    return whisper_normalizer(is_english=False)(transcript).strip()


def clean_whisper_english(transcript: str) -> str:
    """Apply Whisper's normalizer of English, which also unites numbers, contractions and spellings."""
    return whisper_normalizer(is_english=True)(transcript).strip()


TEXT_STYLES: dict[str, Callable[[str], str]] = {
    "none": clean_nothing,
    "basic": clean_basic,
    "written": clean_written,
    "whisper-basic": clean_whisper_basic,
    "whisper-english": clean_whisper_english,
}
"""All styles but ``regex``, which has rules of its own."""


def build_style(name: str, rules: Sequence[Mapping[str, Any]]) -> Callable[[str], str]:
    """Return the function that normalizes a transcript; it raises TextError where a rule takes too long.

    Args:
        name: One of TEXT_STYLES, or ``regex``.
        rules: Tables of ``text_rules``, for ``regex``.

    Raises:
        ConfigError: A rule that cannot be used.
        EnvironmentFault: Whisper's normalizers are missing.
    """
    if name != "regex":
        TEXT_STYLES[name]("")  # loads what it needs, so that a broken installation is not the fault of a row
        return TEXT_STYLES[name]
    steps = build_rules(rules, TEXT_STYLES)

    def clean_by_rules(transcript: str) -> str:
        text = unicodedata.normalize("NFC", transcript)
        for step in steps:
            text = step(text)
        return _SPACES.sub(" ", text).strip()

    return clean_by_rules


class _Kept(dict[int, str | None]):
    """A table for str.translate that looks up the category of each character once."""

    def __missing__(self, code_point: int) -> str | None:
        character = chr(code_point)
        is_kept = unicodedata.category(character)[0] in "LMN" or character.isspace() or character in _JOINERS
        self[code_point] = character if is_kept else None
        return self[code_point]


_KEPT = _Kept()


def _is_control(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Cn")
