import numpy as np
import pytest

from whisper_shard.score.bootstrap import bootstrap_interval, paired_bootstrap


def draw_errors(rng, size, rate, words=10):
    return rng.binomial(words, rate, size), np.full(size, words)


def test_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        low, high = bootstrap_interval(*draw_errors(rng, 100, 0.1), samples=400, seed=trial)
        covered += low <= 0.1 <= high
    assert 0.90 <= covered / 200 <= 0.99


def test_interval_narrows_with_the_corpus_and_repeats():
    rng = np.random.default_rng(1)
    few, many = draw_errors(rng, 50, 0.1), draw_errors(rng, 5000, 0.1)
    widths = [high - low for low, high in (bootstrap_interval(*few), bootstrap_interval(*many))]
    assert widths[1] < widths[0] / 5
    assert bootstrap_interval(*few) == bootstrap_interval(*few)
    assert bootstrap_interval([0] * 9, [5] * 9) == (0.0, 0.0)


def test_nothing_has_no_interval():
    assert bootstrap_interval([], []) == (0.0, 0.0)


def test_paired_bootstrap_sees_what_two_intervals_hide():
    rng = np.random.default_rng(2)
    words = [10] * 300
    first = rng.integers(0, 8, 300)
    second = first + (rng.random(300) < 0.2)
    assert bootstrap_interval(first, words)[1] > bootstrap_interval(second, words)[0]
    found = paired_bootstrap(first, second, words)
    assert found.interval[0] > 0
    assert found.p_second_worse > 0.99
    assert found.difference == pytest.approx((second.sum() - first.sum()) / 3000)
    same = paired_bootstrap(first, first, words)
    assert (same.difference, same.interval, same.p_second_worse) == (0.0, (0.0, 0.0), 0.5)
