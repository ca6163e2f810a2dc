import math

import pytest

from whisper_shard.score.evaluation import EvaluatedUtterance
from whisper_shard.score.times import describe_times, measure_times
from whisper_shard.utterance import Phrase


def make(times, said, *, seconds=10.0):
    phrases = None if times is None else tuple(Phrase(start=a, end=b, text="x") for a, b in times)
    return EvaluatedUtterance(
        key="k", reference="", hypothesis="", language="en", hit_cap=False, seconds=seconds, phrases=phrases,
        reference_phrases=tuple(Phrase(start=a, end=b, text="x") for a, b in said),
    )  # fmt: skip


def test_each_time_is_compared_with_the_nearest():
    found = measure_times([make([(0.1, 4.0)], [(0.0, 2.0), (2.0, 4.3)])])
    assert (found.num_utterances, found.num_times) == (1, 4)
    assert found.median_seconds == pytest.approx((0.3 + 1.9) / 2)  # of 0.1, 0.3, 1.9 and 1.9
    assert found.share_near == 0.25
    assert describe_times(found) == "25.0% of 4 times of phrases within 0.2 s, in the middle 1.10 s away"


def test_a_hypothesis_without_phrases_is_far_away():
    assert measure_times([make([], [(0.0, 2.0), (2.0, 4.0)], seconds=7.0)]).median_seconds == 7.0


def test_utterances_of_one_phrase_say_nothing():
    found = measure_times([make([(0.0, 1.0)], [(0.0, 1.0)])])
    assert found.num_times == 0 and math.isnan(found.median_seconds)
    assert "no utterance of the data has several phrases" in describe_times(found)


def test_hypotheses_without_times_are_not_measured():
    assert measure_times([make(None, [(0.0, 2.0), (2.0, 4.0)])]) is None
