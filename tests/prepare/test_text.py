import random
import re
import string

import pytest

from whisper_shard.prepare.text import TEXT_STYLES, clean_lowercase, clean_verbatim, clean_written


def guide_normalize(text):
    """The function of the guide that users come from, as published."""
    text = text.lower()
    text = re.sub(r"[^a-z0-9\s]", "", text)
    return re.sub(r"\s+", " ", text).strip()


def test_lowercase_is_the_guides_on_ascii():
    draws = random.Random(0)
    for _ in range(500):
        text = "".join(draws.choices(string.printable, k=draws.randrange(60)))
        assert clean_lowercase(text) == guide_normalize(text)


@pytest.mark.parametrize(
    ("transcript", "text"),
    [
        ("Gr\u00fc\u00dfe, \u00c4-\u00d6!", "gr\u00fc\u00dfe \u00e4\u00f6"),
        ("Cafe\u0301 \u00abnoir\u00bb", "caf\u00e9 noir"),
        (
            "\u0645\u0631\u062d\u0628\u0627\u060c \u0643\u064a\u0641 \u062d\u0627\u0644\u0643\u061f",
            "\u0645\u0631\u062d\u0628\u0627 \u0643\u064a\u0641 \u062d\u0627\u0644\u0643",
        ),
        (
            "\u0928\u092e\u0938\u094d\u0924\u0947, \u0926\u0941\u0928\u093f\u092f\u093e\u0964",
            "\u0928\u092e\u0938\u094d\u0924\u0947 \u0926\u0941\u0928\u093f\u092f\u093e",
        ),
        ("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645.", "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"),
        ("\u4f60\u597d\uff0c\u4e16\u754c\u3002", "\u4f60\u597d\u4e16\u754c"),
        ("  two\u00a0words\u2003here ", "two words here"),
        ("\u00bd of \u0663 \U0001f600", "\u00bd of \u0663"),
        ("", ""),
    ],
)
def test_lowercase_keeps_letters_marks_and_digits_of_every_script(transcript, text):
    assert clean_lowercase(transcript) == text


def test_written_keeps_case_and_punctuation():
    assert clean_written("  Hello,\tWorld!\n\x07It's\ufeff 5\u00a0%. ") == "Hello, World! It's 5 %."
    assert clean_written("Cafe\u0301") == "Caf\u00e9"


def test_verbatim_changes_nothing():
    assert clean_verbatim(" A\tb ") == " A\tb "
    assert set(TEXT_STYLES) == {"lowercase", "written", "verbatim"}
