"""Texts are brought to one form before they are compared.

``raw`` as they are; ``basic`` in lower case without punctuation; ``whisper`` by Whisper's own normalizer (for English
it also unites spellings, contractions and numbers). In the last two, each character of a language written without
spaces is a word.

Source: arXiv:2212.04356, appendix C.
"""

import unicodedata
from collections.abc import Callable
from functools import cache
from typing import Literal

from whisper_shard.model.labels import WITHOUT_SPACES, whisper_language

TextForm = Literal["raw", "basic", "whisper"]
"""How texts are brought to one form before they are compared."""
TEXT_FORMS: tuple[TextForm, ...] = ("raw", "basic", "whisper")
"""All of them."""


def normalize_text(text: str, form: TextForm, language: str = "en") -> str:
    """Bring a text to one form.

    Args:
        text: A transcript.
        form: ``raw`` unites white space only; ``basic`` and ``whisper`` as in the module's docstring.
        language: BCP-47 tag, for the other two.
    """
    if form == "whisper":
        english = language.replace("_", "-").split("-")[0].lower() in ("en", "english")
        text = _whisper_normalizer(english)(text)
    elif form == "basic":
        text = _drop_punctuation(text)
    if form != "raw" and whisper_language(language) in WITHOUT_SPACES:
        text = _set_apart(text)
    return " ".join(text.split())


def _set_apart(text: str) -> str:
    """Put a space before each character, but not between it and its marks; as in arXiv:2212.04356, appendix C."""
    return "".join(char if unicodedata.category(char)[0] == "M" else f" {char}" for char in text)


def characters_of(text: str, language: str) -> str:
    """Return what is compared character by character: in a language without spaces, none of those set between."""
    return text.replace(" ", "") if whisper_language(language) in WITHOUT_SPACES else text


def _drop_punctuation(text: str) -> str:
    """Lower the case and drop punctuation and symbols; marks stay, since in Indic scripts they are vowels.

    An apostrophe within a word goes without leaving a gap, other signs leave one.
    """
    lowered = unicodedata.normalize("NFKC", text).lower().replace("\u2019", "'").replace("'", "")
    return "".join(" " if unicodedata.category(char)[0] in "PSC" else char for char in lowered)


@cache
def _whisper_normalizer(english: bool) -> Callable[[str], str]:
    from transformers.models.whisper.english_normalizer import BasicTextNormalizer, EnglishTextNormalizer

    normalizer: Callable[[str], str] = EnglishTextNormalizer({}) if english else BasicTextNormalizer()
    return normalizer
