import pytest
from transformers.models.whisper.tokenization_whisper import LANGUAGES, TO_LANGUAGE_CODE

from whisper_shard.text.languages import NAMES, describe_near_languages, is_language, whisper_language


def test_names_are_those_of_transformers():
    assert NAMES == LANGUAGES
    assert {name: whisper_language(name) for name in TO_LANGUAGE_CODE} == TO_LANGUAGE_CODE


@pytest.mark.parametrize(
    ("tag", "code"),
    [
        ("en-US", "en"), ("pt_BR", "pt"), ("nb", "no"), ("jv", "jw"), ("cmn-Hans", "zh"), ("yue", "yue"), ("FIL", "tl"),
        ("english", "en"), (" German ", "de"), ("deu", "de"), ("Haitian Creole", "ht"), ("Espa\u00f1ol", "es"),
        ("zh-Hant-TW", "zh"),
    ],
)  # fmt: skip
def test_tags_and_names_become_whispers_codes(tag, code):
    assert whisper_language(tag) == code
    assert is_language(code)


def test_what_is_no_language_gets_near_names():
    assert not is_language(whisper_language("Engrish"))
    assert describe_near_languages("Engrish") == "did you mean en (english)?"
    assert describe_near_languages("Germn") == "did you mean de (german)?"
    assert describe_near_languages("xx-9") == "give a BCP-47 tag such as en, or an English name"
