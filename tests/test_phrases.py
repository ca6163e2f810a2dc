"""Phrases with times, as the json member of an utterance holds them."""

import pytest

from whisper_shard.utterance import Phrase, parse_phrases

GOOD = [{"start": 0, "end": 1.5, "text": " one"}, {"start": 1.5, "end": 2, "text": "two", "id": 3}]


def test_phrases_of_the_text():
    assert parse_phrases(GOOD, "one two") == (
        Phrase(start=0, end=1.5, text="one"),
        Phrase(start=1.5, end=2, text="two"),
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "one two"),
        ("0-1 one", "one two"),
        (GOOD, "one three"),
        ([*reversed(GOOD)], "two one"),
        ([{"start": -1, "end": 1, "text": "one"}], "one"),
        ([{"start": 0, "end": float("inf"), "text": "one"}], "one"),
        ([{"start": 0, "end": float("nan"), "text": "one"}], "one"),
        ([{"start": 0, "text": "one"}], "one"),
        ([["one"]], "one"),
    ],
    ids=range(9),
)
def test_anything_else_is_no_phrase(value, text):
    assert parse_phrases(value, text) == ()
