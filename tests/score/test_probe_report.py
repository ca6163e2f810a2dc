import pytest

from whisper_shard.score.evaluation import EvaluatedUtterance
from whisper_shard.score.probe_report import summarize_probe
from whisper_shard.utterance import Phrase


def make(key, hypothesis, times, *, language="en"):
    said = ((0.5, 2.0), (2.5, 4.0))
    return EvaluatedUtterance(
        key=key, reference="one two three four", hypothesis=hypothesis, language=language, hit_cap=False, seconds=4.5,
        phrases=tuple(Phrase(start=a, end=b, text="x") for a, b in times),
        reference_phrases=tuple(Phrase(start=a, end=b, text="x") for a, b in said),
    )  # fmt: skip


GOOD = [(0.5, 2.1), (2.4, 4.0)]
BAD = [(0.5, 4.0)]


def test_words_and_times_are_compared_with_the_base():
    here = [make(str(i), "one two three", BAD) for i in range(6)]
    there = [make(str(i), "one two three four", GOOD) for i in range(6)]
    (whole,) = summarize_probe(here, there, form="basic")
    assert (whole.name, whole.num_recordings, whole.seconds) == ("all", 6, 27.0)
    assert whole.here.words.deletions == 6 and whole.here.num_segments == 6
    assert whole.here.times.share_near == 0.5 and whole.there.times.share_near == 1.0
    assert whole.differences["WER"].difference == pytest.approx(0.25)
    assert whole.differences["times off"].difference == pytest.approx(0.5)
    assert whole.differences["times off"].interval == pytest.approx((0.5, 0.5))


def test_languages_are_parts_of_their_own():
    here = [make("a", "one two three four", GOOD), make("b", "", BAD, language="de")]
    parts = summarize_probe(here, None, form="basic")
    assert [(part.name, part.num_recordings, part.there) for part in parts] == [
        ("all", 2, None), ("de", 1, None), ("en", 1, None),
    ]  # fmt: skip
    assert [part.here.evaluation.score.wer for part in parts] == [0.5, 1.0, 0.0]
    assert all(part.differences == {} for part in parts)
