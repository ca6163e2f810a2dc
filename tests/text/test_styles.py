import random
import re
import string
import textwrap
import unicodedata
from pathlib import Path
from typing import get_args

import pytest

from whisper_shard.cli.flags import load_config
from whisper_shard.config.prepare import PrepareConfig, TextStyle
from whisper_shard.errors import ConfigError, TextError
from whisper_shard.text.styles import TEXT_STYLES, build_style, clean_basic, clean_nothing, clean_written


def guide_normalize(text):
    """The function of the guide that users come from, as published."""
    text = text.lower()
    text = re.sub(r"[^a-z0-9\s]", "", text)
    return re.sub(r"\s+", " ", text).strip()


def test_basic_is_the_guides_on_ascii():
    draws = random.Random(0)
    for _ in range(500):
        text = "".join(draws.choices(string.printable, k=draws.randrange(60)))
        assert clean_basic(text) == guide_normalize(text)


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
        (
            "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35 (\u0e04\u0e23\u0e31\u0e1a)",
            "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35 \u0e04\u0e23\u0e31\u0e1a",
        ),
        ("\u0645\u064f\u062d\u064e\u0645\u0651\u064e\u062f\u061b", "\u0645\u064f\u062d\u064e\u0645\u0651\u064e\u062f"),
        ("\u05e9\u05b8\u05c1\u05dc\u05d5\u05b9\u05dd!", "\u05e9\u05c1\u05b8\u05dc\u05d5\u05b9\u05dd"),
        ("\u0ba4\u0bae\u0bbf\u0bb4\u0bcd.", "\u0ba4\u0bae\u0bbf\u0bb4\u0bcd"),
        ("\u1019\u103c\u1014\u103a\u1019\u102c\u104b", "\u1019\u103c\u1014\u103a\u1019\u102c"),
    ],
)
def test_basic_keeps_letters_marks_and_digits_of_every_script(transcript, text):
    assert clean_basic(transcript) == unicodedata.normalize("NFC", text)


def test_written_keeps_case_and_punctuation():
    assert clean_written("  Hello,\tWorld!\n\x07It's\ufeff 5\u00a0%. ") == "Hello, World! It's 5 %."
    assert clean_written("Cafe\u0301") == "Caf\u00e9"


def test_none_changes_nothing():
    assert clean_nothing(" A\tb ") == " A\tb "
    assert set(get_args(TextStyle)) == {*TEXT_STYLES, "regex"}


RULES = (
    {"pattern": r"\[[^\]]*\]", "replacement": " "},
    {"pattern": r"(\d+)\s*%", "replacement": r"\1 percent"},
    {"style": "basic"},
)


def test_regex_applies_rules_in_order_then_collapses_spaces():
    clean = build_style("regex", RULES)
    assert clean("  Well, [noise] 20 % of\u00a0it!") == "well 20 percent of it"
    assert build_style("regex", RULES[:1])(" A [x] b ") == "A b"
    assert build_style("regex", [{"pattern": r"\p{Sc}", "replacement": ""}])("\u20ac5 \u20b97") == "5 7"


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"pattern": "(", "replacement": ""}, r"text_rules\[1\]: pattern '\(' is no regular expression: missing \)"),
        (
            {"pattern": "a", "replacement": r"\2"},
            r"text_rules\[1\]: replacement '.*2' does not fit 'a': invalid group ref",
        ),
        (
            {"pattern": "a"},
            r"text_rules\[1\]: needs the texts pattern and replacement, or style; it has \{'pattern': 'a'\}",
        ),
        ({"pattern": 3, "replacement": ""}, r"text_rules\[1\]: needs the texts pattern and replacement"),
        (
            {"style": "whisper-englsh"},
            r"text_rules\[1\]: unknown style 'whisper-englsh'; did you mean 'whisper-english'\?",
        ),
    ],
)
def test_rules_that_cannot_be_used_are_named(rule, message):
    with pytest.raises(ConfigError, match=message):
        build_style("regex", [RULES[0], rule])


def test_a_rule_without_end_is_stopped(monkeypatch):
    monkeypatch.setattr("whisper_shard.text.rules.RULE_SECONDS", 0.05)
    clean = build_style("regex", [{"pattern": r"(a|aa)+$", "replacement": ""}])
    with pytest.raises(TextError, match=r"text_rules\[0\]: '.*' takes longer than 0.05 s for this text") as caught:
        clean("a" * 60 + "!")
    assert caught.value.reason == "text_rule_timeout"


def test_rules_and_the_style_regex_need_each_other():
    with pytest.raises(ConfigError, match=r"--text-style regex with 0 text_rules: style regex needs rules"):
        PrepareConfig(text_style="regex")
    with pytest.raises(ConfigError, match=r"--text-style basic with 3 text_rules"):
        PrepareConfig(text_rules=RULES)


def test_the_example_of_the_documents_loads(tmp_path):
    text = Path("docs/prepare.md").read_text()
    block = text[text.index("    [prepare]\n    text_style") :].split("\n\nRules")[0]
    file = tmp_path / "rules.toml"
    file.write_text(textwrap.dedent(block))
    config, _ = load_config(PrepareConfig, command="prepare", argv=["--config", str(file)], positionals={})
    clean = build_style(config.text_style, config.text_rules)
    assert clean("Ah, [laughs] 3 % \u2013 R2-D2!") == "ah 3 percent r2d2"


def test_the_table_of_the_documents_is_true():
    lines = Path("docs/prepare.md").read_text().splitlines()
    rows = [line.split("|") for line in lines if line.startswith("| `") and "all said" in line]
    for _, name, text, *_ in rows[1:]:
        transcript = 'Mr. Hall said: "$25.50 on 3/4"'
        assert TEXT_STYLES[name.strip(" `")](transcript) == text.strip(" `")
    assert len(rows[1:]) == len(TEXT_STYLES)
