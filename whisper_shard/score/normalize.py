"""Texts are brought to one form before they are compared.

``raw`` unites white space only. ``basic`` is lower case without punctuation. ``whisper`` is Whisper's own normalizer,
which for English also unites spellings, contractions and numbers. In the last two, each character of a language
written without spaces is a word.

Source: arXiv:2212.04356, appendix C.
"""

import unicodedata
from typing import Literal

from whisper_shard.text.languages import WITHOUT_SPACES, whisper_language
from whisper_shard.text.whisper import whisper_normalizer

TextForm = Literal["raw", "basic", "whisper"]
"""How texts are brought to one form before they are compared."""
TEXT_FORMS: tuple[TextForm, ...] = ("raw", "basic", "whisper")
"""All forms."""


def normalize_text(text: str, form: TextForm, language: str = "en") -> str:
    """Bring a text to one form.

    Args:
        text: A transcript.
        form: See the module's docstring.
        language: BCP-47 tag, for the forms other than ``raw``.
    """
    code = whisper_language(language)
    if form == "whisper":
        text = whisper_normalizer(is_english=code == "en")(text)
    elif form == "basic":
        text = _normalize_basic(text)
    if form != "raw" and code in WITHOUT_SPACES:
        text = _space_characters(text)
    return " ".join(text.split())


def characters_of(text: str, language: str) -> str:
    """Return a normalized text as it is compared by characters: without the spaces that `normalize_text` put in."""
    return text.replace(" ", "") if whisper_language(language) in WITHOUT_SPACES else text


def _space_characters(text: str) -> str:
    """Put a space before each character, but not before its marks; as in arXiv:2212.04356, appendix C."""
    return "".join(char if unicodedata.category(char)[0] == "M" else f" {char}" for char in text)


def _normalize_basic(text: str) -> str:
    """Lower the case and remove punctuation and symbols.

    An apostrophe joins its neighbours (it's is its), other signs separate them (twenty-one is twenty one).
    """
    lowered = unicodedata.normalize("NFKC", text).lower().replace("\u2019", "'").replace("'", "")
    return "".join(map(_replace_sign, lowered))


def _replace_sign(char: str) -> str:
    """Return a character of a word as it is, a space for punctuation, symbols and controls, nothing for formats."""
    category = unicodedata.category(char)
    # Format characters (Cf) shape the letters around them: joiners in Persian and Indic words, soft hyphens, direction
    # marks. They are optional in writing, no recognizer is asked to predict them, and they do not end a word.
    if category == "Cf":
        return ""
    # Marks stay: in Indic scripts they are vowels. So do private and unassigned code points, which may be letters.
    return " " if category[0] in "PS" or category == "Cc" else char
