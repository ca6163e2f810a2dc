"""The plan's promises, over seeds, sizes, ranks and rules; golden values freeze its order."""

import hashlib
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whisper_shard.errors import ConfigError, DatasetError
from whisper_shard.keyed_random import draw_permutation, draw_words
from whisper_shard.stream.evaluation_order import SortedPlan
from whisper_shard.stream.plan import PLAN_VERSION, Plan, check_world
from whisper_shard.stream.units import BatchRule, Units
from whisper_shard.utterance import MAX_SAMPLES


def make_units(*sizes: int, per_shard: int = 50, seed: int = 0) -> Units:
    rng = np.random.default_rng(seed)
    num_samples = np.clip(np.exp(rng.normal(np.log(6.5), 0.6, sum(sizes))) * 16000, 1, MAX_SAMPLES).astype(np.int32)
    shard_sizes = tuple(np.diff([*range(0, size, per_shard), size]).astype(np.int64) for size in sizes)
    return Units(num_samples=num_samples, num_chars=(num_samples // 1200).astype(np.int32), shard_sizes=shard_sizes)


def epoch_ids(plan: Plan, epoch: int) -> list[int]:
    batches = [plan.batch(epoch, step) for step in range(plan.steps)]
    return [int(i) for batch in batches for i in batch if i >= 0]


@settings(max_examples=150, deadline=None)
@given(
    size=st.sampled_from([0, 1, 2, 11, 12, 13, 40, 97, 333]),
    seed=st.integers(0, 2**63),
    epoch=st.integers(0, 1000),
    world=st.sampled_from([1, 2, 3, 4, 6, 12]),
    buckets=st.sampled_from([1, 3, 32]),
    batch_seconds=st.sampled_from([0.0, 30.0, 77.0]),
)
def test_each_epoch_gives_each_utterance_exactly_once_in_equal_parts(size, seed, epoch, world, buckets, batch_seconds):
    rule = BatchRule(batch_size=12, length_buckets=buckets, batch_seconds=batch_seconds)
    plan = Plan(make_units(size), rule, seed=seed)
    assert sorted(epoch_ids(plan, epoch)) == list(range(size))
    if not batch_seconds:
        assert plan.steps == -(-size // 12)
    for step in range(plan.steps):
        whole = plan.batch(epoch, step)
        parts = [plan.part(epoch, step, rank=rank, world=world) for rank in range(world)]
        assert {len(part) for part in parts} == {plan.batch_rows(epoch, step, world=world)}
        together = np.concatenate(parts)
        assert sorted(together[together >= 0].tolist()) == sorted(whole[whole >= 0].tolist())
        lengths = plan.units.num_samples[whole[whole >= 0]]
        assert np.all(np.diff(lengths) >= 0)
        if batch_seconds:
            assert len(lengths) * int(lengths[-1]) <= batch_seconds * 16000


@pytest.mark.parametrize("world", [1, 2, 3, 4, 5, 6, 7, 8, 12])
def test_any_world_shares_the_same_global_batches(world):
    plan = Plan(make_units(2000), BatchRule(batch_size=840), seed=3)
    for step in range(plan.steps):
        together = np.concatenate([plan.part(1, step, rank=rank, world=world) for rank in range(world)])
        assert sorted(together.tolist()) == sorted(plan.batch(1, step).tolist())


def test_a_step_needs_nothing_of_the_steps_before():
    units = make_units(700)
    walked = Plan(units, BatchRule(batch_size=16), seed=5)
    everything = [walked.batch(e, s).tolist() for e in range(3) for s in range(walked.steps)]
    for number in (0, 1, 20, len(everything) - 1):
        fresh = Plan(units, BatchRule(batch_size=16), seed=5)
        assert fresh.batch(*divmod(number, fresh.steps)).tolist() == everything[number]


def test_epochs_and_seeds_differ():
    plan = Plan(make_units(500), BatchRule(batch_size=20), seed=1)
    orders = {tuple(epoch_ids(plan, epoch)) for epoch in range(4)}
    orders.add(tuple(epoch_ids(Plan(make_units(500), BatchRule(batch_size=20), seed=2), 0)))
    assert len(orders) == 5
    compositions = [{frozenset(plan.batch(e, s).tolist()) for s in range(plan.steps)} for e in range(2)]
    assert len(compositions[0] & compositions[1]) <= 1


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 120), min_size=2, max_size=3),
    weights=st.lists(st.sampled_from([0.25, 0.5, 1.0, 1.5, 2.0, 3.0]), min_size=3, max_size=3),
    seed=st.integers(0, 1000),
)
def test_mixing_delivers_whole_passes_of_every_dataset(sizes, weights, seed):
    rule = BatchRule(batch_size=8, weights=tuple(weights[: len(sizes)]))
    plan = Plan(make_units(*sizes), rule, seed=seed)
    assert len({len(epoch_ids(plan, epoch)) for epoch in range(4)}) == 1
    counts = np.zeros((len(sizes), max(sizes)), int)
    owners = np.repeat(np.arange(len(sizes)), sizes)
    firsts = np.cumsum([0, *sizes])
    for epoch in range(4):
        for unit in epoch_ids(plan, epoch):
            counts[owners[unit], unit - firsts[owners[unit]]] += 1
    for count, size, weight in zip(counts, sizes, rule.weights, strict=True):
        assert count[:size].min() >= np.floor(4 * weight)  # four epochs hold whole passes of all these weights
        assert count[:size].sum() >= 4 * weight * size - 1e-6
        if weight == int(weight):
            assert set(count[:size]) == {int(4 * weight)}
        assert count[:size].max() - count[:size].min() <= max(4, 4 * weight)


def test_mixed_datasets_are_spread_over_the_epoch():
    plan = Plan(make_units(2000, 1000), BatchRule(batch_size=50, length_buckets=8), seed=0)
    shares = [float(np.mean(plan.batch(0, step)[plan.batch(0, step) >= 0] < 2000)) for step in range(plan.steps)]
    assert 0.5 < np.mean(shares[:10]) < 0.85
    assert 0.5 < np.mean(shares[-10:]) < 0.85


def padding_waste(plan: Plan) -> float:
    padded = real = 0
    for step in range(plan.steps):
        ids = plan.batch(0, step)
        lengths = plan.units.num_samples[ids[ids >= 0]].astype(np.int64)
        padded += len(ids) * int(lengths.max())
        real += int(lengths.sum())
    return 1 - real / padded


def test_padding_is_a_fifth_of_that_in_random_order():
    units = make_units(20_000)
    units = Units(num_samples=units.num_samples, num_chars=np.full(20_000, 50, np.int32), shard_sizes=units.shard_sizes)
    bucketed = padding_waste(Plan(units, BatchRule(), seed=0))
    mixed = padding_waste(Plan(units, BatchRule(length_buckets=1), seed=0))
    assert bucketed < 0.15 / 2 < 0.5 < mixed


def test_texts_of_a_batch_are_of_like_length():
    units = make_units(20_000)
    chars = np.random.default_rng(0).integers(5, 300, 20_000).astype(np.int32)
    units = Units(num_samples=units.num_samples, num_chars=chars, shard_sizes=units.shard_sizes)
    plan = Plan(units, BatchRule(), seed=0)
    spread = np.mean([np.std(chars[plan.batch(0, step)]) for step in range(0, plan.steps - 1, 7)])
    assert spread < 0.6 * np.std(chars)


def test_a_stretch_of_steps_touches_few_shards():
    units = make_units(50_000, per_shard=100)
    plan = Plan(units, BatchRule(batch_size=32), seed=0)
    shards = {int(i) // 100 for step in range(700, 730) for i in plan.batch(0, step)}
    assert len(shards) < 500 / 3


@settings(max_examples=60, deadline=None)
@given(size=st.integers(0, 400), seed=st.integers(0, 1000), batch_seconds=st.sampled_from([0.0, 77.0]))
def test_steps_that_are_read_together_are_parts_of_the_epoch(size, seed, batch_seconds):
    plan = Plan(make_units(size), BatchRule(batch_size=12, batch_seconds=batch_seconds), seed=seed)
    together = [tuple(plan.read_together(2, step)) for step in range(plan.steps)]
    assert all(step in steps and list(steps) == sorted(steps) for step, steps in enumerate(together))
    assert sorted(step for steps in set(together) for step in steps) == list(range(plan.steps))
    assert max(map(len, together), default=0) <= 4


@pytest.mark.parametrize("world", [1, 2, 4, 8, 16])
def test_a_rank_needs_one_stretch_of_each_run(world):
    """In shards sorted by length, what a rank needs of a block lies together: neighbours, in each shard."""
    per_shard, shards = 250, 40
    units = make_units(per_shard * shards, per_shard=per_shard)
    lengths = np.sort(units.num_samples.reshape(shards, per_shard), axis=1).ravel()
    plan = Plan(
        Units(num_samples=lengths, num_chars=lengths // 1200, shard_sizes=units.shard_sizes),
        BatchRule(batch_size=64, length_buckets=8), seed=4,
    )  # fmt: skip
    stretches = utterances = 0
    for step in range(plan.steps):
        steps = plan.read_together(0, step)
        if step != steps[0]:
            continue
        ids = np.sort(np.concatenate([plan.part(0, later, rank=world // 2, world=world) for later in steps]))
        ids = ids[ids >= 0]
        stretches += 1 + int(np.sum((np.diff(ids) > 1) | (np.diff(ids // per_shard) > 0)))
        utterances += len(ids)
    # A bucket has about 31 utterances in a shard; a block of 256 has 8 such runs, of which a rank takes its share.
    assert utterances / stretches > {1: 20, 2: 18, 4: 14, 8: 9, 16: 5}[world]


def test_golden_order_of_this_plan_version():
    """If this fails, either the order was changed by mistake, or PLAN_VERSION must rise and these values with it."""
    assert PLAN_VERSION == 2
    num_samples = (np.arange(1000, dtype=np.int32) * 7919 % 464_000 + 16_000).astype(np.int32)
    sizes = (np.array([300, 1, 299], np.int64), np.array([400], np.int64))
    units = Units(num_samples=num_samples, num_chars=num_samples // 1000, shard_sizes=sizes)
    digests = {}
    rules = {
        "size": BatchRule(batch_size=24),
        "seconds": BatchRule(batch_seconds=200.0, length_buckets=9),
        "mixed": BatchRule(batch_size=24, weights=(0.5, 2.0)),
    }
    for name, rule in rules.items():
        plan = Plan(units, rule, seed=42)
        order = np.concatenate([plan.batch(epoch, step) for epoch in (0, 3) for step in range(plan.steps)])
        digests[name] = hashlib.sha256(order.astype("<i4").tobytes()).hexdigest()[:16]
    plan = Plan(units, rules["size"], seed=42)
    assert plan.batch(0, 0).tolist()[:8] == GOLDEN_FIRST
    assert digests == GOLDEN


GOLDEN_FIRST = [977, 274, 978, 217, 510, 686, 979, 569]
GOLDEN = {"size": "d5e4e78756b540b8", "seconds": "83892d4f44855df9", "mixed": "7cd6442ead321be7"}


def test_golden_words():
    assert [hex(word) for word in draw_words(2, 42, "steps", 0)] == GOLDEN_WORDS
    assert draw_permutation(6, 42, "shards", 0, 0).tolist() == GOLDEN_PERMUTATION


GOLDEN_WORDS = ["0x98e345568d0ccff1", "0xd9a43b8cc021b2f9"]
GOLDEN_PERMUTATION = [2, 5, 1, 3, 0, 4]


@pytest.mark.parametrize("limit", [0, 1, 7, 100])
@pytest.mark.parametrize("world", [1, 3])
def test_evaluation_takes_each_utterance_once_shortest_first(limit, world):
    num_samples = make_units(50).num_samples
    plan = SortedPlan(num_samples, batch_size=6 * world, limit=limit)
    parts = [[plan.part(0, s, rank=r, world=world) for r in range(world)] for s in range(plan.steps)]
    ids = np.concatenate([part for step in parts for part in step])
    ids = ids[ids >= 0]
    assert len(set(ids.tolist())) == len(ids) == min(limit or 50, 50)
    assert {len(part) for step in parts for part in step} == {6}
    tops = [max(int(num_samples[p[p >= 0]].max(initial=0)) for p in step) for step in parts]
    assert tops == sorted(tops)
    if limit == 7:
        more = SortedPlan(num_samples, batch_size=50, limit=20).part(0, 0, rank=0, world=1)
        assert set(ids.tolist()) <= set(more.tolist())


def test_refuses_what_cannot_be():
    units = make_units(10)
    with pytest.raises(ConfigError, match=r"--batch-size 64 is not divisible by 6 ranks; use 66"):
        check_world(BatchRule(), rank=0, world=6)
    with pytest.raises(ConfigError, match=r"rank 2 of 2: ranks count from 0 to 1"):
        check_world(BatchRule(), rank=2, world=2)
    with pytest.raises(ConfigError, match=r"--batch-size is 0; it must be at least 1"):
        Plan(units, BatchRule(batch_size=0), seed=0)
    with pytest.raises(ConfigError, match=r"--length-buckets is 300"):
        Plan(units, BatchRule(length_buckets=300), seed=0)
    with pytest.raises(ConfigError, match=r"--batch-seconds 1 is less than the longest utterance, \d+\.\d\d s"):
        Plan(units, BatchRule(batch_seconds=1.0), seed=0)
    with pytest.raises(ConfigError, match=r"--weights 1 2: need one above 0 for each of the 1 datasets"):
        Plan(units, BatchRule(weights=(1.0, 2.0)), seed=0)
    long = Units(
        num_samples=np.array([5, 480_001], np.int32), num_chars=np.ones(2, np.int32), shard_sizes=(np.array([2]),)
    )
    with pytest.raises(DatasetError, match=r"utterance 1 of the index has 480001 samples, Whisper's window is 480000"):
        Plan(long, BatchRule(), seed=0)


@pytest.mark.long
@pytest.mark.parametrize("rule", [BatchRule(), BatchRule(batch_seconds=600.0)])
def test_ten_million_utterances_start_in_a_second(rule):
    units = make_units(10_000_000, per_shard=500)
    tracemalloc.start()
    plan = Plan(units, rule, seed=0)
    plan.batch(0, 0)
    assert tracemalloc.get_traced_memory()[1] < 200e6
    tracemalloc.stop()
    for epoch, step in ((0, 0), (7, plan.steps - 1)):
        started = time.process_time()
        Plan(units, rule, seed=0).batch(epoch, step)
        assert time.process_time() - started < 1.0
