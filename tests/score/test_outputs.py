import pytest

from whisper_shard.score.evaluation import EvaluatedUtterance, summarize_utterances
from whisper_shard.score.outputs import OutputCounts, count_outputs, is_empty, is_looping
from whisper_shard.score.wer import score_texts


def score(reference, hypothesis, form="basic", language="en"):
    return score_texts([reference], [hypothesis], form=form, languages=[language]).utterances[0]


@pytest.mark.parametrize(
    ("reference", "hypothesis", "language", "expected"),
    [
        ("thank you", "thank you thank you thank you thank you", "en", True),
        ("thank you", "thank you thank you thank you", "en", False),
        ("no no no no no", "no no no no no", "en", False),  # so it was said
        ("ja", "ja " * 200, "de", True),
        ("ha", "ha" * 60, "en", True),  # one long word
        ("\u4f60\u597d", "\u4f60\u597d" * 5, "zh", True),
        ("", "", "en", False),
        ("one two three", "one two two three three", "en", False),
    ],
)
def test_texts_that_repeat_themselves(reference, hypothesis, language, expected):
    assert is_looping(score(reference, hypothesis, language=language)) is expected


def test_empty_is_what_has_no_word_where_something_is_said():
    assert is_empty(score("one", " ... "))
    assert not is_empty(score("one", " ... ", form="raw"))
    assert not is_empty(score("...", ""))


def test_counts():
    rows = [("one", "", True), ("two", "two two two two two", True), ("three", "three", False), ("", "four", False)]
    utterances = [
        EvaluatedUtterance(key=str(i), reference=a, hypothesis=b, language="en", hit_cap=cap, seconds=1)
        for i, (a, b, cap) in enumerate(rows)
    ]
    found = summarize_utterances(utterances, window="full", form="basic", loss=0.0, seconds=0.0)
    counts = count_outputs(found.utterances, found.score.utterances)
    assert counts == OutputCounts(
        num_utterances=4, num_empty=1, num_capped=2, num_looping=1, num_silent=1, num_invented=1
    )
