import numpy as np
import pytest

from whisper_shard.score.alignment import ErrorCounts, count_errors
from whisper_shard.score.bootstrap import bootstrap_interval
from whisper_shard.score.normalize import normalize_text
from whisper_shard.score.wer import paired_bootstrap, score_texts, summarize


@pytest.mark.parametrize(
    ("reference", "hypothesis", "expected"),
    [
        ("one two three", "one two three", (0, 0, 0, 3)),
        ("one two three", "one too three", (1, 0, 0, 3)),
        ("one two three", "one three", (0, 1, 0, 3)),
        ("one two three", "one two two three", (0, 0, 1, 3)),
        ("one two three", "", (0, 3, 0, 3)),
        ("one two three four", "two tree four five", (1, 1, 1, 4)),
        ("", "", (0, 0, 0, 0)),
        ("", "thank you", (0, 0, 2, 0)),
    ],
)
def test_errors_of_hand_worked_cases(reference, hypothesis, expected):
    (found,) = count_errors([reference], [hypothesis])
    assert (found.substitutions, found.deletions, found.insertions, found.num_reference) == expected


def test_characters_count_too():
    (found,) = count_errors(["abcd"], ["abxde"], chars=True)
    assert (found.errors, found.num_reference) == (2, 4)


def test_corpus_wer_is_errors_over_words_not_a_mean():
    score = score_texts(["a b c d e f", "g"], ["a b c d e x", "h"])
    assert score.wer == pytest.approx(2 / 7)
    assert (score.substitutions, score.deletions, score.insertions, score.num_reference_words) == (2, 0, 0, 7)
    assert score.cer == pytest.approx(2 / 12)


def test_rates_without_any_reference():
    assert ErrorCounts().rate == 0.0
    assert ErrorCounts(insertions=3).rate == 1.0
    assert score_texts(["", "one"], ["you", "one"]).wer == 1.0


def test_nothing_to_score():
    score = score_texts([], [])
    assert (score.wer, score.interval, score.utterances) == (0.0, (0.0, 0.0), ())


@pytest.mark.parametrize(
    ("text", "form", "language", "expected"),
    [
        (" Hello,  World! ", "raw", "en", "Hello, World!"),
        (" Hello,  World! ", "basic", "en", "hello world"),
        ("It's the boy\u2019s.", "basic", "en", "its the boys"),
        ("twenty-one", "basic", "en", "twenty one"),
        ("\u0939\u093f\u0928\u094d\u0926\u0940\u0964", "basic", "hi", "\u0939\u093f\u0928\u094d\u0926\u0940"),
        ("\u00c4rger \u00fcber \u00d6l", "basic", "de", "\u00e4rger \u00fcber \u00f6l"),
        ("Zero, I'm 21 [noise]", "whisper", "en-GB", "0 i am 21"),
        ("Zero, [noise] null", "whisper", "de", "zero null"),
        ("\u4f60\u597d\u3002", "basic", "zh-CN", "\u4f60 \u597d"),
        ("\u4f60\u597d\u3002", "whisper", "zh", "\u4f60 \u597d"),
        ("\u4f60\u597d\u3002", "raw", "zh", "\u4f60\u597d\u3002"),
        ("\u0e17\u0e35\u0e48\u0e14\u0e35", "basic", "th", "\u0e17\u0e35\u0e48 \u0e14\u0e35"),
    ],
)
def test_text_forms(text, form, language, expected):
    assert normalize_text(text, form, language) == expected


def test_words_of_languages_without_spaces_are_their_characters():
    score = score_texts(["\u4f60\u597d\u5417"], ["\u4f60\u597d"], languages=["zh"])
    assert (score.wer, score.cer) == (1 / 3, 1 / 3)
    assert (score.num_reference_words, score.chars.num_reference) == (3, 3)


def test_forms_change_the_score():
    kwargs = {"references": ["zero"], "hypotheses": ["Zero."]}
    assert score_texts(**kwargs, form="raw").wer == 1.0
    assert score_texts(**kwargs, form="basic").wer == 0.0
    assert score_texts(["zero"], ["0"], form="basic").wer == 1.0
    assert score_texts(["zero"], ["0"], form="whisper").wer == 0.0


def make_counts(rng, size, rate, words=10):
    return [ErrorCounts(substitutions=int(n), num_reference=words) for n in rng.binomial(words, rate, size)]


def test_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        low, high = bootstrap_interval(make_counts(rng, 100, 0.1), samples=400, seed=trial)
        covered += low <= 0.1 <= high
    assert 0.90 <= covered / 200 <= 0.99


def test_interval_narrows_with_the_corpus_and_repeats():
    rng = np.random.default_rng(1)
    few, many = make_counts(rng, 50, 0.1), make_counts(rng, 5000, 0.1)
    widths = [high - low for low, high in (bootstrap_interval(few), bootstrap_interval(many))]
    assert widths[1] < widths[0] / 5
    assert bootstrap_interval(few) == bootstrap_interval(few)
    assert bootstrap_interval([ErrorCounts(num_reference=5)] * 9) == (0.0, 0.0)


def test_paired_bootstrap_sees_what_two_intervals_hide():
    rng = np.random.default_rng(2)
    references = [" ".join(["w"] * 10)] * 300
    errors = rng.integers(0, 8, 300)
    first = [" ".join(["x"] * n + ["w"] * (10 - n)) for n in errors]
    second = [" ".join(["x"] * m + ["w"] * (10 - m)) for m in errors + (rng.random(300) < 0.2)]
    one, other = score_texts(references, first), score_texts(references, second)
    assert one.interval[1] > other.interval[0]
    found = paired_bootstrap(one, other)
    assert found.interval[0] > 0
    assert found.p_second_worse > 0.99
    assert found.difference == pytest.approx(other.wer - one.wer)
    same = paired_bootstrap(one, one)
    assert (same.difference, same.interval, same.p_second_worse) == (0.0, (0.0, 0.0), 0.5)


def test_paired_bootstrap_wants_the_same_utterances():
    with pytest.raises(ValueError, match="not of the same utterances"):
        paired_bootstrap(score_texts(["a"], ["a"], keys=["k1"]), score_texts(["a"], ["a"], keys=["k2"]))


def test_rows_of_several_processes_sum_to_the_same_score():
    references, hypotheses = ["a b", "c", "d e f"], ["a b", "x", "d f f g"]
    whole = score_texts(references, hypotheses, keys=["k0", "k1", "k2"])
    parts = [score_texts(references[i : i + 1], hypotheses[i : i + 1], keys=[f"k{i}"]) for i in (2, 0, 1)]
    assert summarize([row for part in parts for row in part.utterances], form="basic") == whole
