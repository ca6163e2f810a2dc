import json
import shutil
from importlib.resources import files

import pytest
from transformers import WhisperTokenizer

from whisper_shard.score.normalize import characters_of, normalize_text
from whisper_shard.text.whisper import SPELLING_NAME

WITH_JOINER = "\u0645\u06cc\u200c\u0631\u0648\u0645"  # Persian: I go, with a zero-width non-joiner
JOINED = "\u0645\u06cc\u0631\u0648\u0645"


@pytest.mark.parametrize(
    ("text", "form", "language", "expected"),
    [
        (" Hello,  World! ", "raw", "en", "Hello, World!"),
        (" Hello,  World! ", "basic", "en", "hello world"),
        ("It's the boy\u2019s.", "basic", "en", "its the boys"),
        ("twenty-one", "basic", "en", "twenty one"),
        ("\u0939\u093f\u0928\u094d\u0926\u0940\u0964", "basic", "hi", "\u0939\u093f\u0928\u094d\u0926\u0940"),
        ("\u00c4rger \u00fcber \u00d6l", "basic", "de", "\u00e4rger \u00fcber \u00f6l"),
        ("Zero, I'm 21 [noise]", "whisper", "en-GB", "0 i am 21"),
        ("Zero, [noise] null", "whisper", "de", "zero null"),
        ("\u4f60\u597d\u3002", "basic", "zh-CN", "\u4f60 \u597d"),
        ("\u4f60\u597d\u3002", "whisper", "zh", "\u4f60 \u597d"),
        ("\u4f60\u597d\u3002", "raw", "zh", "\u4f60\u597d\u3002"),
        ("\u0e17\u0e35\u0e48\u0e14\u0e35", "basic", "th", "\u0e17\u0e35\u0e48 \u0e14\u0e35"),
    ],
)
def test_text_forms(text, form, language, expected):
    assert normalize_text(text, form, language) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (WITH_JOINER, JOINED),
        ("co\u00adoperate", "cooperate"),  # soft hyphen
        ("\u202bone\u202c two", "one two"),  # direction marks
        ("one\u200dtwo\ufeff", "onetwo"),  # zero-width joiner, byte order mark
        ("one\ttwo\x00three", "one two three"),
        ("a\ue000b", "a\ue000b"),  # private use
        ("one\u2014two \u20ac5", "one two 5"),
    ],
)
def test_basic_removes_format_characters_within_words(text, expected):
    assert normalize_text(text, "basic", "fa") == expected


def test_characters_leave_out_the_spaces_of_normalization_only():
    assert characters_of("\u4f60 \u597d", "zh") == "\u4f60\u597d"
    assert characters_of("one two", "en") == "one two"


@pytest.fixture(scope="module")
def whisper_tokenizer(tiny_folder, tmp_path_factory):
    """A tokenizer with the map of spellings, as in the folders of the published models."""
    folder = tmp_path_factory.mktemp("tokenizer")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_folder / name, folder)
    spelling = files("whisper_shard.text").joinpath(SPELLING_NAME).read_text("utf-8")
    assert len(json.loads(spelling)) > 1700
    (folder / "normalizer.json").write_text(spelling)
    return WhisperTokenizer.from_pretrained(str(folder))


@pytest.mark.parametrize(
    "text",
    [
        "The colour of the theatre's programme wasn't grey, Mr. Smith!",
        "I've organised twenty-one litres for $3.50 (about three and a half gallons), uh, won't you?",
        "She realised the aluminium cheque cost one hundred and five pounds.",
        "Caf\u00e9 na\u00efve \u00a320 50% [laughter] they'd been travelling",
    ],
)
def test_english_is_normalized_as_by_transformers_own_tokenizer(whisper_tokenizer, text):
    assert normalize_text(text, "whisper", "en") == " ".join(whisper_tokenizer.normalize(text).split())
    assert normalize_text(text, "whisper", "de") == " ".join(whisper_tokenizer.basic_normalize(text).split())


def test_british_and_american_spellings_are_equal():
    assert normalize_text("the colour of grey theatres", "whisper") == "the color of gray theaters"
