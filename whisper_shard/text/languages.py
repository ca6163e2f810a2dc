"""The languages of Whisper: their codes, and what people write for them."""

import difflib
import unicodedata

WITHOUT_SPACES = frozenset({"zh", "ja", "th", "lo", "my", "yue"})
"""Languages written without spaces; no space is put before their texts. Source: openai/whisper tokenizer.py."""
WHISPER_CODES = {"jv": "jw", "nb": "no", "fil": "tl", "iw": "he", "cmn": "zh", "in": "id", "ji": "yi"}
"""BCP-47 languages that have another code in Whisper."""
NAMES = {
    "af": "afrikaans", "am": "amharic", "ar": "arabic", "as": "assamese", "az": "azerbaijani", "ba": "bashkir",
    "be": "belarusian", "bg": "bulgarian", "bn": "bengali", "bo": "tibetan", "br": "breton", "bs": "bosnian",
    "ca": "catalan", "cs": "czech", "cy": "welsh", "da": "danish", "de": "german", "el": "greek", "en": "english",
    "es": "spanish", "et": "estonian", "eu": "basque", "fa": "persian", "fi": "finnish", "fo": "faroese",
    "fr": "french", "gl": "galician", "gu": "gujarati", "ha": "hausa", "haw": "hawaiian", "he": "hebrew",
    "hi": "hindi", "hr": "croatian", "ht": "haitian creole", "hu": "hungarian", "hy": "armenian", "id": "indonesian",
    "is": "icelandic", "it": "italian", "ja": "japanese", "jw": "javanese", "ka": "georgian", "kk": "kazakh",
    "km": "khmer", "kn": "kannada", "ko": "korean", "la": "latin", "lb": "luxembourgish", "ln": "lingala",
    "lo": "lao", "lt": "lithuanian", "lv": "latvian", "mg": "malagasy", "mi": "maori", "mk": "macedonian",
    "ml": "malayalam", "mn": "mongolian", "mr": "marathi", "ms": "malay", "mt": "maltese", "my": "myanmar",
    "ne": "nepali", "nl": "dutch", "nn": "nynorsk", "no": "norwegian", "oc": "occitan", "pa": "punjabi",
    "pl": "polish", "ps": "pashto", "pt": "portuguese", "ro": "romanian", "ru": "russian", "sa": "sanskrit",
    "sd": "sindhi", "si": "sinhala", "sk": "slovak", "sl": "slovenian", "sn": "shona", "so": "somali",
    "sq": "albanian", "sr": "serbian", "su": "sundanese", "sv": "swedish", "sw": "swahili", "ta": "tamil",
    "te": "telugu", "tg": "tajik", "th": "thai", "tk": "turkmen", "tl": "tagalog", "tr": "turkish", "tt": "tatar",
    "uk": "ukrainian", "ur": "urdu", "uz": "uzbek", "vi": "vietnamese", "yi": "yiddish", "yo": "yoruba",
    "yue": "cantonese", "zh": "chinese",
}  # fmt: skip
"""English name of each language that some version of Whisper knows. Source: openai/whisper tokenizer.py."""
_OTHER_NAMES = {
    "burmese": "my", "castilian": "es", "farsi": "fa", "filipino": "tl", "flemish": "nl", "haitian": "ht",
    "letzeburgesch": "lb", "mandarin": "zh", "moldavian": "ro", "moldovan": "ro", "panjabi": "pa", "pushto": "ps",
    "sinhalese": "si", "valencian": "ca",
    "deutsch": "de", "english (us)": "en", "espanol": "es", "francais": "fr", "italiano": "it", "nederlands": "nl",
    "polski": "pl", "portugues": "pt", "svenska": "sv",
}  # fmt: skip
_THREE_LETTERS = {
    "ara": "ar", "ces": "cs", "cym": "cy", "dan": "da", "deu": "de", "ell": "el", "eng": "en", "fas": "fa",
    "fin": "fi", "fra": "fr", "heb": "he", "hin": "hi", "hun": "hu", "ind": "id", "ita": "it", "jpn": "ja",
    "kor": "ko", "nld": "nl", "nor": "no", "pol": "pl", "por": "pt", "ron": "ro", "rus": "ru", "spa": "es",
    "swe": "sv", "tha": "th", "tur": "tr", "ukr": "uk", "urd": "ur", "vie": "vi", "zho": "zh",
}  # fmt: skip
_BY_NAME = {**{name: code for code, name in NAMES.items()}, **_OTHER_NAMES}


def whisper_language(language: str) -> str:
    """Return Whisper's code of a language given as BCP-47 tag or by name; what is neither, in lower case.

    en-US and English are en, nb is no, jv is jw, deu is de.
    """
    word = _plain(language)
    if word in _BY_NAME:
        return _BY_NAME[word]
    primary = word.replace("_", "-").split("-")[0]
    return WHISPER_CODES.get(primary) or _THREE_LETTERS.get(primary) or primary


def is_language(code: str) -> bool:
    """Return whether some version of Whisper knows a code."""
    return code in NAMES


def describe_near_languages(language: str) -> str:
    """Return a hint for a language that does not exist: the nearest ones, or what a language looks like."""
    word = _plain(language)
    near = difflib.get_close_matches(word, _BY_NAME, n=2, cutoff=0.7)
    if near:
        return "did you mean " + " or ".join(f"{_BY_NAME[name]} ({name})" for name in near) + "?"
    return "give a BCP-47 tag such as en, or an English name"


def _plain(language: str) -> str:
    """Return a word in lower case, without accents and spaces around it."""
    letters = unicodedata.normalize("NFKD", language.strip().lower())
    return "".join(letter for letter in letters if not unicodedata.combining(letter))
