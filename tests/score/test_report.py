import math

from whisper_shard.config.score import ScoreConfig
from whisper_shard.score.evaluation import EvaluatedUtterance
from whisper_shard.score.outputs import count_outputs
from whisper_shard.score.page import describe_outputs
from whisper_shard.score.report import WindowReport, find_warnings
from whisper_shard.score.wer import score_texts


def make_window(window, hypotheses, *, cut_off=0, **changes):
    score = score_texts(["one two three four"] * len(hypotheses), hypotheses)
    rows = [
        EvaluatedUtterance(
            key=row.key, reference=row.reference, hypothesis=row.hypothesis, language="en", hit_cap=i < cut_off,
            seconds=2.0,
        )
        for i, row in enumerate(score.utterances)
    ]  # fmt: skip
    outputs = count_outputs(rows, score.utterances)
    fields = {
        "loss": 1.0,
        "times": None,
        "slices": (),
        "seconds": 0.0,
        "utterances": tuple(rows),
        "outputs": outputs,
        **changes,
    }
    return WindowReport(window=window, scores={"basic": score}, **fields)


def test_windows_that_differ_are_warned_of():
    good, bad = ["one two three four"] * 40, ["one two three four", "one one one five six seven"] * 20
    config = ScoreConfig()
    (warning,) = find_warnings([make_window("full", good), make_window("short", bad)], config)
    assert "WER is 0.0% in 30 s windows and 62.5% in short windows" in warning
    assert find_warnings([make_window("full", good), make_window("short", good)], config) == []
    one_off = [*good[:39], "one two three"]
    assert find_warnings([make_window("full", good), make_window("short", one_off)], config) == []


def test_cut_off_hypotheses_and_broken_weights_are_warned_of():
    good = ["one two three four"] * 10
    found = find_warnings([make_window("full", good, cut_off=3, loss=float("nan"))], ScoreConfig(max_new_tokens=7))
    assert "3 of 10 hypotheses in 30 s windows were cut off at 7 tokens: raise --max-new-tokens" in found[0]
    assert "the loss in 30 s windows is nan: the weights are damaged" in found[1]


def test_empty_and_looping_hypotheses_are_warned_of():
    hypotheses = ["one two three four"] * 8 + ["", "no no no no no"]
    empty, looping = sorted(find_warnings([make_window("short", hypotheses)], ScoreConfig()))
    assert empty == "1 of 10 hypotheses in short windows are empty where something is said"
    assert looping == "1 of 10 hypotheses in short windows repeat a phrase over and over"


def test_words_where_nothing_is_said_are_warned_of_and_counted_among_what_is_silent():
    rows = [
        EvaluatedUtterance(key=key, reference=a, hypothesis=b, language="en", hit_cap=False, seconds=2.0)
        for key, a, b in [("a", "one", "one"), ("b", "", "thank you"), ("c", "", "")]
    ]
    score = score_texts([row.reference for row in rows], [row.hypothesis for row in rows])
    window = make_window("full", ["one two three four"], outputs=count_outputs(rows, score.utterances))
    assert find_warnings([window], ScoreConfig()) == [
        "1 of 2 hypotheses in 30 s windows have words where nothing is said"
    ]
    assert describe_outputs(window.outputs)["invented"] == "1 of 2 where nothing is said"
    assert "invented" not in describe_outputs(make_window("full", ["one"]).outputs)


def test_a_loss_that_is_not_known_is_no_damage():
    given = make_window("given", ["one two three four"], loss=math.nan, seconds=math.nan)
    assert find_warnings([given], ScoreConfig()) == []
    assert math.isnan(given.real_time_factor)


def test_the_real_time_factor_is_computing_over_audio():
    window = make_window("full", ["one two three four"] * 5, seconds=2.5)
    assert (window.audio_seconds, window.real_time_factor) == (10.0, 0.25)
