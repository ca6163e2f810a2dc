import pytest

from whisper_shard.config.score import ScoreConfig
from whisper_shard.score.evaluate import EvaluatedUtterance, EvaluationPart, EvaluationSettings, finish_evaluation
from whisper_shard.score.report import WindowReport, find_warnings, seconds_bins, slice_scores
from whisper_shard.score.wer import score_texts


def make_evaluation(rows):
    """Evaluate (key, reference, hypothesis, language, seconds)."""
    utterances = tuple(
        EvaluatedUtterance(key=key, reference=reference, hypothesis=hypothesis, language=language, hit_cap=False,
                           seconds=seconds)
        for key, reference, hypothesis, language, seconds in rows
    )  # fmt: skip
    part = EvaluationPart(utterances=utterances, loss_sum=1.0, num_tokens=1, seconds=0.0)
    return finish_evaluation([part], EvaluationSettings())


def test_slices_are_the_sums_of_their_utterances():
    evaluation = make_evaluation([
        ("k2", "one two", "one too", "en", 1.5),
        ("k0", "three", "three", "en", 0.5),
        ("k1", "four five six", "four six", "en", 1.0),
    ])  # fmt: skip
    slices = {(part.kind, part.name): part for part in slice_scores(evaluation, {"k0": "ann", "k2": "ann"})}
    assert list(slices) == [
        ("seconds", "00-01 s"), ("seconds", "01-02 s"), ("speaker", "ann"), ("speaker", "unknown")
    ]  # fmt: skip
    ann, unknown = slices["speaker", "ann"], slices["speaker", "unknown"]
    assert (ann.num_utterances, ann.seconds) == (2, 2.0)
    assert (ann.words.substitutions, ann.words.errors, ann.words.num_reference) == (1, 1, 3)
    assert (unknown.words.deletions, unknown.words.insertions, unknown.words.num_reference) == (1, 0, 3)
    low, high = ann.interval
    assert 0.0 == low < high == 0.5
    assert slices["seconds", "01-02 s"].words.num_reference == 5


def test_a_property_with_one_value_makes_no_slices():
    rows = [("k0", "one", "one", "en", 1.5), ("k1", "two", "two", "de", 1.7)]
    assert {part.kind for part in slice_scores(make_evaluation(rows), {})} == {"language"}


@pytest.mark.parametrize(
    ("seconds", "name"), [(0.4, "00-01 s"), (1.0, "01-02 s"), (4.9, "02-05 s"), (12, "10-20 s"), (30, "20-30 s")]
)
def test_durations_fall_into_slices(seconds, name):
    assert seconds_bins([seconds]) == [name]


def make_window(window, hypotheses, **changes):
    score = score_texts(["one two three four"] * len(hypotheses), hypotheses)
    fields = {"loss": 1.0, "cap_hits": 0, "slices": (), "seconds": 0.0, **changes}
    return WindowReport(window=window, scores={"basic": score}, **fields)


def test_windows_that_differ_are_warned_of():
    good, bad = ["one two three four"] * 40, ["one two three four", "one one one one one one"] * 20
    config = ScoreConfig()
    (warning,) = find_warnings([make_window("full", good), make_window("short", bad)], config)
    assert "WER is 0.0% in 30 s windows and 62.5% in short windows" in warning
    assert find_warnings([make_window("full", good), make_window("short", good)], config) == []
    one_off = [*good[:39], "one two three"]
    assert find_warnings([make_window("full", good), make_window("short", one_off)], config) == []


def test_cut_off_hypotheses_and_broken_weights_are_warned_of():
    good = ["one two three four"] * 10
    found = find_warnings([make_window("full", good, cap_hits=3, loss=float("nan"))], ScoreConfig(max_new_tokens=7))
    assert "3 of 10 hypotheses in 30 s windows were cut off at 7 tokens: raise --max-new-tokens" in found[0]
    assert "the loss in 30 s windows is nan: the weights are damaged" in found[1]
