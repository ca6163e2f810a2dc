import pytest

from whisper_shard.errors import DatasetError
from whisper_shard.score.compare import compare_evaluations, comparison_as_json, describe_comparison
from whisper_shard.score.evaluation import EvaluatedUtterance, summarize_utterances


def evaluate(hypotheses, *, window="full"):
    rows = [
        EvaluatedUtterance(
            key=f"k{i:03}", reference="one two", hypothesis=text, language="en", hit_cap=False, seconds=1
        )
        for i, text in enumerate(hypotheses)
    ]
    return summarize_utterances(rows, window=window, form="basic", loss=1.0, seconds=1.0)


def test_wins_losses_and_what_changed_most():
    here = evaluate(["one two", "one", "", "one two", "won two"])
    there = evaluate(["one", "one two", "one two", "one two", "one too"], window="given")
    found = compare_evaluations("old", here, there)
    assert (found.num_better, found.num_worse, found.num_equal) == (1, 2, 2)
    assert [(change.here.key, change.more_errors) for change in found.changes] == [
        ("k002", 2),
        ("k000", -1),
        ("k001", 1),
    ]
    assert found.paired.difference == pytest.approx((4 - 2) / 10)
    low, high = found.paired.interval
    assert low < 0.2 < high and not found.is_clear and found.paired.p_second_worse > 0.5
    assert "+20.00 points" in describe_comparison(found) and "this may be chance" in describe_comparison(found)
    value = comparison_as_json(found)
    assert (value["window"], value["other_window"], value["num_worse"]) == ("full", "given", 2)
    assert value["changes"][0] == {
        "key": "k002", "errors": 2, "other_errors": 0, "reference": "one two", "hypothesis": "",
        "other_hypothesis": "one two",
    }  # fmt: skip


def test_a_clear_difference():
    found = compare_evaluations("old", evaluate(["one two"] * 50), evaluate(["one", "one two"] * 25))
    assert found.is_clear and found.paired.difference == pytest.approx(-0.25)
    low, high = found.paired.interval
    assert low < -0.25 < high < 0
    assert "chance" not in describe_comparison(found)


def test_the_same_hypotheses_do_not_differ():
    found = compare_evaluations("old", evaluate(["one"] * 5), evaluate(["one"] * 5))
    assert (found.changes, found.paired.interval, found.is_clear) == ((), (0.0, 0.0), False)


@pytest.mark.parametrize(("here", "there", "words"), [(2, 1, r"1 are not in it \(k001\)"), (1, 3, "2 are only in it")])
def test_other_utterances_are_refused(here, there, words):
    message = rf"--against old: is a score of other utterances: {there} there, {here} here, {words}"
    with pytest.raises(DatasetError, match=message):
        compare_evaluations("old", evaluate(["one"] * here), evaluate(["one"] * there))
