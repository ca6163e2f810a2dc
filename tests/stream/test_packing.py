"""Packing: windows of one group, never over 30 s, every utterance in exactly one of them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.making import make_dataset
from whisper_shard.errors import ConfigError
from whisper_shard.stream.packing import keep_alone, pack_units, read_groups, read_units
from whisper_shard.stream.units import Units
from whisper_shard.utterance import MAX_SAMPLES


@settings(max_examples=100, deadline=None)
@given(
    seconds=st.lists(st.floats(0.01, 30.0), max_size=60),
    num_groups=st.integers(1, 5),
    gap_seconds=st.sampled_from([(0.0, 0.0), (0.1, 0.5), (0.0, 4.0)]),
    seed=st.integers(0, 99),
)
def test_windows_hold_one_group_and_never_exceed_thirty_seconds(seconds, num_groups, gap_seconds, seed):
    num_samples = np.array([round(s * 16000) for s in seconds], np.int32)
    groups = np.random.default_rng(seed).integers(-1, num_groups, len(seconds))
    half = len(seconds) // 2
    sizes = (np.array([half], np.int64), np.array([len(seconds) - half], np.int64))
    units = Units(num_samples=num_samples, num_chars=np.full(len(seconds), 9, np.int32), shard_sizes=sizes)
    packed, windows = pack_units(units, groups, gap_seconds=gap_seconds, seed=seed)
    assert sorted(windows.members.tolist()) == list(range(len(seconds)))
    assert sum(int(s.sum()) for s in packed.shard_sizes) == len(packed.num_samples) == len(windows.starts) - 1
    for unit in range(len(packed.num_samples)):
        for epoch in range(2):
            members = windows.arrange(epoch, unit)
            total = sum(int(num_samples[number]) + gap for number, gap in members)
            assert total <= int(packed.num_samples[unit]) <= MAX_SAMPLES
            assert members[0][1] == 0
            assert all(gap_seconds[0] * 16000 <= gap <= gap_seconds[1] * 16000 for _, gap in members[1:])
            kinds = {int(groups[number]) for number, _ in members}
            assert len(kinds) == 1 and (kinds != {-1} or len(members) == 1)
        assert sorted(windows.members_of(np.array([unit])).tolist()) == sorted(number for number, _ in members)


def test_packing_fills_windows_and_redraws_order_and_pauses():
    rng = np.random.default_rng(0)
    num_samples = rng.integers(16_000, 160_000, 3000).astype(np.int32)
    units = Units(num_samples=num_samples, num_chars=np.ones(3000, np.int32), shard_sizes=(np.array([3000]),))
    packed, windows = pack_units(units, rng.integers(0, 10, 3000), gap_seconds=(0.1, 0.5), seed=0)
    assert len(packed.num_samples) < 700  # 3000 utterances of 5.5 s need at least 567 windows with their pauses
    arrangements = [windows.arrange(epoch, 5) for epoch in range(3)]
    assert arrangements[0] == windows.arrange(0, 5)
    assert arrangements[0] != arrangements[1] != arrangements[2]


def test_groups_are_told_apart_across_datasets(tmp_path):
    datasets = [make_dataset(tmp_path / name, [0.2] * 6, per_shard=4, speakers=3) for name in "ab"]
    speakers = read_groups(datasets, "speaker")
    assert speakers[:3].tolist() == speakers[3:6].tolist()
    assert len(set(speakers.tolist())) == 6
    assert len(set(read_groups(datasets, "source").tolist())) == 12
    assert read_units(datasets).shard_sizes[1].tolist() == [4, 2]


def test_unknown_groups_stay_alone(tmp_path):
    dataset = make_dataset(tmp_path / "a", [0.2] * 4)
    assert read_groups([dataset], "language").tolist() == [-1, -1, -1, -1]


def test_a_share_is_packed_and_the_others_stay_alone():
    groups = np.random.default_rng(0).integers(-1, 3, 2000)
    kept = keep_alone(groups, share=0.5, seed=1)
    assert set(kept[kept != groups].tolist()) == {-1}
    assert 850 < (kept >= 0).sum() * 2000 / (groups >= 0).sum() < 1150
    assert np.array_equal(kept, keep_alone(groups, share=0.5, seed=1))
    assert not np.array_equal(kept, keep_alone(groups, share=0.5, seed=2))
    assert np.array_equal(keep_alone(groups, share=1.0, seed=1), groups)
    assert (keep_alone(groups, share=0.0, seed=1) == -1).all()


def test_refuses_pauses_that_are_no_range():
    units = Units(num_samples=np.ones(2, np.int32), num_chars=np.ones(2, np.int32), shard_sizes=(np.array([2]),))
    with pytest.raises(ConfigError, match=r"--pack-gap-seconds 2 1: need 0 <= shortest <= longest <= 30"):
        pack_units(units, np.zeros(2, np.int64), gap_seconds=(2.0, 1.0), seed=0)
