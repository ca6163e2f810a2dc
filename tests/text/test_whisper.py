"""Whisper's normalizers, without torch and equal to those of transformers."""

import json
import random
import subprocess
import sys
from importlib.resources import files

import pytest
from transformers.models.whisper.english_normalizer import BasicTextNormalizer, EnglishTextNormalizer

from whisper_shard.errors import EnvironmentFault
from whisper_shard.text.styles import clean_whisper_basic, clean_whisper_english
from whisper_shard.text.whisper import SPELLING_NAME, whisper_normalizer

TEXT = (
    "the colour of twenty one and a half hundred thousand $25.50 on 3/4 won't I've mr. st dr uh mm (aside) [noise] <s> "
    "double oh seven point five per cent percent minus two dollars 1960s 2nd cancelled \u00a320 caf\u00e9 \u00e6on "
    "o'clock they'd been y'all 10,000 one ones 0.5 stra\u00dfe grey \u0939\u093f\u0928\u094d\u0926\u0940 \u4f60\u597d"
)


@pytest.fixture(scope="module")
def theirs():
    spelling = json.loads(files("whisper_shard.text").joinpath(SPELLING_NAME).read_text("utf-8"))
    return EnglishTextNormalizer(spelling), BasicTextNormalizer()


def test_texts_become_what_transformers_makes_of_them(theirs):
    english, basic = theirs
    draws = random.Random(0)
    for _ in range(300):
        text = draws.choice([" ", ", ", "-"]).join(draws.choices(TEXT.split(), k=draws.randrange(12)))
        assert clean_whisper_english(text) == english(text).strip(), text
        assert clean_whisper_basic(text) == basic(text).strip(), text


def test_numbers_signs_and_spellings_are_united():
    assert clean_whisper_english("It's grey: $25.50 on the twenty-first!") == "it is gray $25.50 on the 21st"
    assert clean_whisper_basic("Stra\u00dfe, \u00e4h (hustet) [l\u00e4rm] 3/4") == "stra\u00dfe \u00e4h 3 4"


def test_neither_torch_nor_transformers_is_imported():
    code = (
        "import sys; from whisper_shard.config.prepare import PrepareConfig; "
        "from whisper_shard.prepare.pipeline import build_pipeline; "
        "pipeline = build_pipeline(PrepareConfig(text_style='whisper-english')); "
        "assert pipeline.clean('Colours, twenty') == 'colors 20'; "
        "print({'torch', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_transformers_without_them_is_a_fault_of_the_machine(monkeypatch, tmp_path):
    (tmp_path / "transformers").mkdir()
    (tmp_path / "transformers" / "__init__.py").touch()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    whisper_normalizer.cache_clear()
    with pytest.raises(EnvironmentFault, match=r"transformers has no models/whisper/english_norm.*; install"):
        whisper_normalizer(is_english=True)
