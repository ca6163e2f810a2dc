import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whisper_shard.score.hf_metric import load_error_rates
from whisper_shard.score.wer import score_texts

TEXTS = st.lists(st.sampled_from(["one", "two", "three"]), max_size=6).map(" ".join)


def test_the_metric_agrees_with_the_score():
    references, hypotheses = ["one two three", "", "four"], ["one too three", "you", "four"]
    rates = load_error_rates().compute(references=references, predictions=hypotheses)
    score = score_texts(references, hypotheses, form="raw")
    assert rates == {"wer": pytest.approx(score.wer), "cer": pytest.approx(score.cer)}
    assert score.wer == 2 / 4


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=5))
def test_the_metric_agrees_with_the_score_of_any_texts(pairs):
    references, hypotheses = zip(*pairs, ("one", "one"), strict=True)  # a corpus has at least one reference word
    rates = load_error_rates().compute(references=references, predictions=hypotheses)
    score = score_texts(references, hypotheses, form="raw")
    assert rates == {"wer": pytest.approx(score.wer), "cer": pytest.approx(score.cer)}
