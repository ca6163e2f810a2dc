"""The plan: (index, seed, epoch, step) -> the utterances of that step. Pure; it reads nothing and remembers nothing.

Units (an utterance, or a packed window of several) are put into length buckets whose borders depend on the index only.
An epoch walks the shards in random order; each bucket receives its units in that order, the buckets are laid end to
end and cut into batches, and four successive batches of a bucket form a block. The steps of the epoch take the blocks
in random order, all buckets advancing at the same pace, and shuffle the batches of blocks near each other. Hence:

- every unit exactly once an epoch (datasets mixed by weight: exactly once a pass), the last batch padded;
- the number of steps is the same in every epoch and on every rank;
- a batch holds units of one length, and a stretch of steps touches few shards;
- (epoch, step) is all there is to remember: any step of any epoch is found without the ones before it.

What a rank needs of a block lies together in the shards, which are sorted by length: the units of a bucket in one shard
are neighbours there. A block is cut into groups in stored order; units exchange their batch, by text length, within
their group only, and the rows of a batch stand in the order of groups. So rank r of W, which takes the rows
[r B / W, (r + 1) B / W) of each batch of B, needs one stretch of the block, while the batches do not depend on W.

`PLAN_VERSION` changes whenever the same input would give another order; golden values in the tests watch over it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from whisper_shard.errors import ConfigError, DatasetError
from whisper_shard.keyed_random import draw_permutation, draw_uniform
from whisper_shard.stream.buckets import CHUNK, assign_buckets, bucket_borders, choose_num_buckets, count_values
from whisper_shard.stream.units import BatchRule, Ids, Units, pad_front
from whisper_shard.utterance import HOP_LENGTH, MAX_SAMPLES, SAMPLE_RATE

PLAN_VERSION = 2
"""Changes with the order of utterances; part of every saved state."""
_BLOCK_BATCHES = 4  # batches of a bucket that exchange their units and are read together
_GROUPS = 64  # a block is cut into this many groups: the largest number of ranks that still read in long runs
_LEAST_GROUP_ROWS = 4  # fewer rows of a batch in a group would leave texts of too different lengths in a batch
# Batches are shuffled among blocks of this much audio together (460 MB as int16). More mixes lengths better; less needs
# less memory, since a block is held in memory from its first batch to its last.
_SHUFFLE_SECONDS = 4 * 3600
_CACHED_BLOCKS = 256  # blocks whose batches stay in memory: each is asked for once a step and process
_CHARS_JITTER = 0.2  # relative noise on text lengths, so that batches differ between epochs


class Plan:
    """The order of one corpus under one rule and one seed."""

    def __init__(self, units: Units, rule: BatchRule, *, seed: int) -> None:
        """Lay out the buckets and batches, which are the same in every epoch.

        Raises:
            ConfigError: The rule cannot be followed for these units.
            DatasetError: An utterance is longer than Whisper's window.
        """
        _check(units, rule)
        self.units = units
        self.rule = rule
        self.seed = seed
        weights = rule.weights or (1.0,) * len(units.shard_sizes)
        self._bounds = np.cumsum([0, *(int(sizes.sum()) for sizes in units.shard_sizes)])
        self._bucket_of_length = bucket_borders(units.num_samples, choose_num_buckets(units, rule))
        self._buckets = assign_buckets(self._bucket_of_length, units.num_samples)
        num_buckets = int(self._bucket_of_length[-1]) + 1
        self._sizes = np.array(
            [count_values(self._buckets[low:high], num_buckets) for low, high in pairwise(self._bounds)]
        ).reshape(-1, num_buckets)
        # Rounded up, so that no unit is left out of every epoch for its bucket's sake.
        self._taken = np.ceil(self._sizes * np.array(weights)[:, None] - 1e-9).astype(np.int64)
        self._starts, self._batch_buckets = self._cut()
        self._epoch = lru_cache(2)(self._draw_epoch)
        self._block = lru_cache(_CACHED_BLOCKS)(self._draw_block)

    @property
    def steps(self) -> int:
        """Steps in an epoch; the same for every epoch, rank and number of workers."""
        return len(self._batch_buckets)

    @property
    def num_units(self) -> int:
        """Units delivered in an epoch, padding not counted."""
        return int(self._taken.sum())

    def batch(self, epoch: int, step: int) -> Ids:
        """Return the units of a step on all ranks together, shortest first.

        With a batch size, the last batch of the longest bucket is filled up with -1 (in front).
        """
        ids = self._by_length(self._rows(epoch, step))
        return ids if self.rule.batch_seconds else pad_front(ids, self.rule.batch_size)

    def units_from(self, epoch: int, step: int) -> Iterator[Ids]:
        """Yield all units of an epoch from a step on, in pieces of any order; the whole epoch at once from step 0."""
        if step == 0:
            yield self._epoch(epoch).order
        for later in range(step, self.steps if step else 0):
            yield self._rows(epoch, later)

    def batch_rows(self, epoch: int, step: int, *, world: int) -> int:
        """Return the rows of a step on each rank, padding included."""
        rows = len(self._rows(epoch, step)) if self.rule.batch_seconds else self.rule.batch_size
        return -(-rows // world)

    def part(self, epoch: int, step: int, *, rank: int, world: int) -> Ids:
        """Return one rank's units of a step, shortest first, padded with -1 in front."""
        rows = self._rows(epoch, step)
        mine = rows[len(rows) * rank // world : len(rows) * (rank + 1) // world]
        return pad_front(self._by_length(mine), self.batch_rows(epoch, step, world=world))

    def read_together(self, epoch: int, step: int) -> list[int]:
        """Return the steps, in order, whose units are read together with those of a step: the steps of its block."""
        drawn = self._epoch(epoch)
        first, end = self._block_of(int(drawn.schedule[step]))
        steps: list[int] = np.sort(drawn.step_of[first:end]).tolist()
        return steps

    def _rows(self, epoch: int, step: int) -> Ids:
        """Return the units of a step in order of group, without padding."""
        cut = int(self._epoch(epoch).schedule[step])
        first, _ = self._block_of(cut)
        return self._block(epoch, first)[cut - first]

    def _by_length(self, ids: Ids) -> Ids:
        return ids[np.argsort(self.units.num_samples[ids], kind="stable")]

    def _block_of(self, cut: int) -> tuple[int, int]:
        """Return the first batch of the block that holds a batch, and the one after its last; both in order of cut."""
        bucket = self._batch_buckets[cut]
        first_of_bucket, end_of_bucket = np.searchsorted(self._batch_buckets, [bucket, bucket + 1])
        first = cut - (cut - int(first_of_bucket)) % _BLOCK_BATCHES
        return first, min(first + _BLOCK_BATCHES, int(end_of_bucket))

    def _cut(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return where each batch starts in an epoch's order (one more entry at the end), and each batch's bucket."""
        ends = np.cumsum(self._taken.sum(axis=0))
        starts, buckets, position = [], [], 0
        for bucket, end in enumerate(ends):
            size = self._batch_size(bucket)
            count = (int(end) - position) // size
            starts.append(position + size * np.arange(count))
            buckets.append(np.full(count, bucket))
            # What does not fill a batch goes to the next longer bucket; only the longest has a batch of its rest.
            position += size * count
        if position < self.num_units:
            starts.append(np.array([position]))
            buckets.append(np.array([len(ends) - 1]))
        starts.append(np.array([self.num_units]))
        return np.concatenate(starts), np.concatenate(buckets or [np.empty(0, np.int64)])

    def _batch_size(self, bucket: int) -> int:
        if not self.rule.batch_seconds:
            return self.rule.batch_size
        frames = int(np.flatnonzero(self._bucket_of_length <= bucket)[-1]) + 1
        longest = min(frames * HOP_LENGTH, int(self.units.num_samples.max(initial=1)))
        return max(1, int(self.rule.batch_seconds * SAMPLE_RATE) // longest)

    def _draw_epoch(self, epoch: int) -> "_Epoch":
        """Return the epoch's order of units, bucket by bucket, and the batch that each step takes."""
        orders = [self._dataset_order(dataset, epoch) for dataset in range(len(self._taken))]
        order = orders[0] if len(orders) == 1 else _merge(orders, self._taken)
        schedule = self._draw_schedule(epoch)
        step_of = np.empty_like(schedule)
        step_of[schedule] = np.arange(self.steps, dtype=np.int32)
        return _Epoch(order=order, schedule=schedule, step_of=step_of)

    def _draw_schedule(self, epoch: int) -> NDArray[np.int32]:
        """Return the batch of each step: blocks in random turns, then batches shuffled among blocks next in turn."""
        _, turns, counts = np.unique(self._batch_buckets, return_inverse=True, return_counts=True)
        nth = np.arange(self.steps) - np.searchsorted(self._batch_buckets, self._batch_buckets)
        is_first = nth % _BLOCK_BATCHES == 0
        block_of_batch = np.cumsum(is_first) - 1
        num_blocks = -(-counts // _BLOCK_BATCHES)[turns[is_first]]
        noise = draw_uniform(len(num_blocks), self.seed, "blocks", epoch)
        turn_of_block = np.empty(len(num_blocks), np.int64)
        progress = (nth[is_first] // _BLOCK_BATCHES + noise) / num_blocks
        turn_of_block[np.argsort(progress, kind="stable")] = np.arange(len(num_blocks))
        window = turn_of_block[block_of_batch] // self._shuffled_blocks()
        return np.argsort(window + draw_uniform(self.steps, self.seed, "steps", epoch), kind="stable").astype(np.int32)

    def _shuffled_blocks(self) -> int:
        """Return how many blocks shuffle their batches: about `_SHUFFLE_SECONDS` of audio, at least one block."""
        seconds = float(np.sum(self.units.num_samples, dtype=np.float64)) / SAMPLE_RATE
        steps_seconds = seconds * self.num_units / max(len(self.units.num_samples), 1) / max(self.steps, 1)
        return max(1, int(_SHUFFLE_SECONDS / max(_BLOCK_BATCHES * steps_seconds, 1e-9)))

    def _dataset_order(self, dataset: int, epoch: int) -> Ids:
        """Return what an epoch takes of one dataset, bucket by bucket: the next stretch of its endless passes."""
        sizes, taken = self._sizes[dataset], self._taken[dataset]
        if np.array_equal(sizes, taken):
            return self._pass(dataset, epoch)
        passes: dict[int, Ids] = {}
        starts = np.cumsum(sizes) - sizes
        parts = [np.empty(0, np.int32)]
        for start, size, count in zip(starts.tolist(), sizes.tolist(), taken.tolist(), strict=True):
            for number, low, high in _stretch(epoch * count, (epoch + 1) * count, size):
                if number not in passes:
                    passes[number] = self._pass(dataset, number)
                parts.append(passes[number][start + low : start + high])
        return np.concatenate(parts)

    def _pass(self, dataset: int, number: int) -> Ids:
        """Return all units of a dataset, bucket by bucket, each bucket in a random order of shards."""
        sizes = self.units.shard_sizes[dataset]
        firsts = self._bounds[dataset] + np.cumsum(sizes) - sizes
        shards = draw_permutation(len(sizes), self.seed, "shards", dataset, number)
        order = np.empty(int(sizes.sum()), np.int32)
        positions = np.cumsum(self._sizes[dataset]) - self._sizes[dataset]
        for chunk in _chunks_of_shards(sizes[shards]):
            ids = _ranges(firsts[shards[chunk]], sizes[shards[chunk]])
            buckets = self._buckets[ids]
            ids = ids[np.argsort(buckets, kind="stable")]
            counts = np.bincount(buckets, minlength=len(positions))
            for bucket, part in enumerate(np.split(ids, np.cumsum(counts)[:-1])):
                order[positions[bucket] : positions[bucket] + len(part)] = part
            positions = positions + counts
        return order

    def _draw_block(self, epoch: int, first: int) -> list[Ids]:
        """Return the units of each batch of a block, in order of group and, within it, of storage."""
        _, end = self._block_of(first)
        sizes = np.diff(self._starts[first : end + 1])
        ids = self._epoch(epoch).order[self._starts[first] : self._starts[end]]
        noise = draw_uniform(len(ids), self.seed, "texts", epoch, first)
        chars = self.units.num_chars[ids] * (1.0 + _CHARS_JITTER * noise) + noise
        groups = min(_GROUPS, max(1, int(sizes.max()) // _LEAST_GROUP_ROWS))
        # counts[j, g]: rows that batch j has in group g. A rank's share of the rows ends where a group ends, if the
        # number of ranks divides that of groups.
        counts = np.diff(sizes[:, None] * np.arange(groups + 1) // groups, axis=1)
        group_of_unit = np.repeat(np.arange(groups), counts.sum(axis=0))
        batch_of_unit = np.empty(len(ids), np.int64)
        by_text = np.lexsort((chars, group_of_unit))
        batch_of_unit[by_text] = np.repeat(np.tile(np.arange(len(sizes)), groups), counts.T.ravel())
        return [ids[batch_of_unit == batch] for batch in range(len(sizes))]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Epoch:
    """What is drawn once for an epoch."""

    order: Ids
    """All units, bucket by bucket; batches are stretches of it."""
    schedule: NDArray[np.int32]
    """The batch that each step takes, batches counted in order of their stretches."""
    step_of: NDArray[np.int32]
    """Its inverse: the step that takes each batch."""


def check_world(rule: BatchRule, *, rank: int, world: int) -> None:
    """Refuse a number of ranks that cannot share a batch equally.

    Raises:
        ConfigError: ``batch_size`` is no multiple of ``world``, or there is no such rank.
    """
    if not 0 <= rank < world:
        raise ConfigError(f"rank {rank} of {world}: ranks count from 0 to {world - 1}")
    if not rule.batch_seconds and rule.batch_size % world:
        near = -(-rule.batch_size // world) * world
        raise ConfigError(f"--batch-size {rule.batch_size} is not divisible by {world} ranks; use {near}, for example")


def _check(units: Units, rule: BatchRule) -> None:
    longest = int(units.num_samples.max(initial=0))
    if longest > MAX_SAMPLES:
        row = int(units.num_samples.argmax())
        raise DatasetError(
            f"utterance {row} of the index has {longest} samples, Whisper's window is {MAX_SAMPLES}; "
            "prepare the dataset again with --max-seconds 30"
        )
    if rule.batch_size < 1:
        raise ConfigError(f"--batch-size is {rule.batch_size}; it must be at least 1")
    if not 1 <= rule.length_buckets <= 256:
        raise ConfigError(f"--length-buckets is {rule.length_buckets}; it must lie between 1 and 256")
    if rule.batch_seconds and rule.batch_seconds * SAMPLE_RATE < longest:
        raise ConfigError(
            f"--batch-seconds {rule.batch_seconds:g} is less than the longest utterance, "
            f"{longest / SAMPLE_RATE:.2f} s; give at least that"
        )
    if rule.weights and (len(rule.weights) != len(units.shard_sizes) or min(rule.weights) <= 0):
        raise ConfigError(
            f"--weights {' '.join(f'{w:g}' for w in rule.weights)}: need one above 0 for each of "
            f"the {len(units.shard_sizes)} datasets"
        )


def _stretch(low: int, high: int, size: int) -> Iterator[tuple[int, int, int]]:
    """Cut ``[low, high)`` of an endless repetition of ``size`` places into (repetition, low, high) pieces."""
    while low < high:
        number, start = divmod(low, size)
        end = min(size, start + high - low)
        yield number, start, end
        low += end - start


def _merge(orders: Sequence[Ids], taken: NDArray[np.int64]) -> Ids:
    """Mix the datasets' orders bucket by bucket, each spread evenly over the bucket."""
    merged = [np.empty(0, np.int32)]
    ends = np.cumsum(taken, axis=1)
    for bucket in range(taken.shape[1]):
        counts = taken[:, bucket]
        parts = [order[end[bucket] - n : end[bucket]] for order, end, n in zip(orders, ends, counts, strict=True)]
        places = np.concatenate([(np.arange(n) + 0.5) / n for n in counts])
        merged.append(np.concatenate(parts)[np.argsort(places, kind="stable")])
    return np.concatenate(merged)


def _chunks_of_shards(sizes: NDArray[np.int64]) -> Iterator[slice]:
    """Cut a list of shards into runs of about ``CHUNK`` units."""
    marks = np.searchsorted(np.cumsum(sizes), np.arange(CHUNK, int(sizes.sum()), CHUNK)) + 1
    edges = np.unique(np.concatenate([[0], marks, [len(sizes)]])).tolist()
    for low, high in pairwise(edges):
        yield slice(low, high)


def _ranges(firsts: NDArray[np.int64], sizes: NDArray[np.int64]) -> Ids:
    """Return first, first + 1, ... first + size - 1 for each pair, end to end."""
    ends = np.cumsum(sizes)
    return (np.repeat(firsts - (ends - sizes), sizes) + np.arange(int(ends[-1]) if len(ends) else 0)).astype(np.int32)
