"""Windows: exact shares, no lost utterance, the same windows for any number of ranks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whisper_shard.config.train import WindowConfig
from whisper_shard.errors import ConfigError
from whisper_shard.train.windows import (
    MicroBatch,
    PassLimit,
    assign_windows,
    choose_full,
    cut_micro_batches,
)
from whisper_shard.utterance import MAX_SAMPLES, SAMPLE_RATE


def windows_of(seconds, *, step=0, total_steps=100, **changes):
    lengths = np.array([round(s * SAMPLE_RATE) for s in seconds], np.int64)
    return assign_windows(lengths, config=WindowConfig(**changes), seed=42, epoch=0, step=step, total_steps=total_steps)


@given(
    seconds=st.lists(st.floats(0.05, 30.0), min_size=1, max_size=70),
    share=st.floats(0.0, 1.0),
    step=st.integers(0, 50),
    padding=st.floats(0.0, 1.0),
)
@settings(max_examples=60, deadline=None)
def test_every_window_holds_its_utterance(seconds, share, step, padding):
    windows = windows_of(seconds, step=step, full_share=share, max_padding=padding)
    assert (windows >= np.round(np.array(seconds) * SAMPLE_RATE)).all()
    assert windows.max() <= MAX_SAMPLES
    assert (windows % 320 == 0).all(), "a whole number of encoder positions"
    assert (windows >= WindowConfig().min_window_seconds * SAMPLE_RATE).all()


@pytest.mark.parametrize(("count", "share"), [(64, 0.125), (64, 0.1), (7, 0.3), (1, 0.01), (5, 0.0), (5, 1.0)])
def test_share_of_full_windows_is_exact_over_steps(count, share):
    total = 0
    for step in range(200):
        total += int(choose_full(count, share=share, seed=3, epoch=step // 10, step=step).sum())
        assert abs(total - count * share * (step + 1)) < 1.0 + 1e-6, step


def test_full_windows_go_around():
    chosen = [choose_full(64, share=0.125, seed=0, epoch=0, step=s) for s in range(40)]
    assert (np.sum(chosen, axis=0) > 0).sum() > 60, "in 40 steps nearly every place in the batch had its turn"


def test_short_utterances_sit_on_a_jittered_floor():
    changes = {"full_share": 0.0, "min_window_seconds": 2.0, "margin_seconds": (0.2, 1.5)}
    seen = {int(windows_of([0.4] * 16, step=s, **changes)[0]) for s in range(30)}
    assert min(seen) >= 2.0 * SAMPLE_RATE
    assert max(seen) <= 3.4 * SAMPLE_RATE
    assert len(seen) > 5


def test_one_floor_length_batch_is_one_window():
    for step in range(30):
        assert len(set(windows_of([0.4] * 16, step=step, full_share=0.0))) == 1


def test_long_and_short_utterances_part():
    windows = windows_of([3.0] * 8 + [20.0] * 8, full_share=0.0)
    assert windows[:8].max() <= 4.6 * SAMPLE_RATE
    assert windows[8:].min() >= 20.2 * SAMPLE_RATE


def test_last_phase_is_full():
    assert windows_of([3.0] * 8, step=89, full_final=0.1, full_share=0.0).max() < MAX_SAMPLES
    assert windows_of([3.0] * 8, step=90, full_final=0.1, full_share=0.0).min() == MAX_SAMPLES


@pytest.mark.parametrize("window", ["full", "packed"])
def test_other_policies_use_30_seconds(window):
    assert set(windows_of([1.0, 20.0], window=window)) == {MAX_SAMPLES}


def test_steps_differ_and_repeat():
    windows = [list(windows_of([5.0] * 9, step=s)) for s in range(12)]
    assert windows == [list(windows_of([5.0] * 9, step=s)) for s in range(12)]
    assert len({tuple(w) for w in windows}) > 2


@given(windows=st.lists(st.sampled_from([0, 32_000, 64_000, 480_000]), max_size=40), utterances=st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_micro_batches_hold_every_row_once(windows, utterances):
    batches = cut_micro_batches(np.array(windows, np.int64), limit=PassLimit(utterances=utterances, seconds=60.0))
    assert sorted(r for b in batches for r in b.rows) == [i for i, w in enumerate(windows) if w]
    for batch in batches:
        assert {windows[r] for r in batch.rows} == {batch.window_samples}
        assert len(batch.rows) <= utterances
        assert len(batch.rows) == 1 or len(batch.rows) * batch.window_seconds <= 60.0


def test_passes_are_of_nearly_equal_size():
    batches = cut_micro_batches(np.full(17, 32_000), limit=PassLimit(utterances=16))
    assert [len(b.rows) for b in batches] == [9, 8]


def test_halving_the_limit_reaches_one_utterance():
    limit = PassLimit(utterances=64)
    rows = [limit.rows(480_000)]
    while rows[-1] > 1:
        limit = limit.halved(rows=rows[-1], window_samples=480_000)
        rows.append(limit.rows(480_000))
    assert rows == [64, 32, 16, 8, 4, 2, 1]


def test_window_in_seconds():
    assert MicroBatch(rows=(0,), window_samples=40_000).window_seconds == 2.5


def test_margins_in_the_wrong_order_are_refused():
    with pytest.raises(ConfigError, match=r"--margin-seconds \(2.0, 1.0\): need 0 <= shortest <= longest <= 30"):
        WindowConfig(margin_seconds=(2.0, 1.0))
