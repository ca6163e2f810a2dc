"""Normalization of transcripts for training, in every script.

To add a style, write a function and add it to TEXT_STYLES and to `PrepareConfig.text_style`.
"""

import re
import unicodedata
from collections.abc import Callable

_SPACES = re.compile(r"\s+")
_ASCII_UNWANTED = re.compile(r"[^a-z0-9\s]")
_JOINERS = "\u200c\u200d"
"""Zero-width joiners, which belong to the spelling in Persian and in the scripts of India."""


def clean_lowercase(transcript: str) -> str:
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


def clean_verbatim(transcript: str) -> str:
    """Return the transcript as it is."""
    return transcript


TEXT_STYLES: dict[str, Callable[[str], str]] = {
    "lowercase": clean_lowercase,
    "written": clean_written,
    "verbatim": clean_verbatim,
}


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
