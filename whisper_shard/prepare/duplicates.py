"""The same audio twice in a corpus, found by a hash of the samples of each utterance as they are stored.

Equal recordings under different names, formats without loss, or levels (with ``--peak``) become equal samples.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from whisper_shard.prepare.plan import ShardPlan, SplitPlan
from whisper_shard.prepare.receipts import read_receipt
from whisper_shard.report.quantities import describe_number

SHOWN_PAIRS = 3
"""Pairs that are named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeat:
    """An utterance whose audio an earlier one has: in the order of the manifest, but evaluation before training."""

    shard: ShardPlan
    """Its shard."""
    position: int
    """Its place in the index of that shard."""
    first_shard: ShardPlan
    """The shard of the earlier one."""
    first_position: int
    """Its place in the index of that shard."""

    @property
    def is_leaked(self) -> bool:
        """Whether the earlier one is in the other dataset."""
        return self.shard.split.name != self.first_shard.split.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Duplicates:
    """What a comparison of all utterances has found."""

    num_compared: int
    """Utterances."""
    repeats: tuple[Repeat, ...]
    """Those whose audio an earlier one has, in the order of the manifest."""

    def describe(self, *, is_dropped: bool = False) -> Iterator[str]:
        """Yield lines about it; ``is_dropped``: the repeats will be dropped."""
        number = len(self.repeats)
        if not number:
            compared = describe_number(self.num_compared, "utterance")
            yield f"audio compared by hash: no two of {compared} have the same"
            return
        shown = sorted(self.repeats, key=lambda repeat: not repeat.is_leaked)[:SHOWN_PAIRS]
        named = "; ".join(
            f"{_name(repeat.shard, repeat.position)} as {_name(repeat.first_shard, repeat.first_position)}"
            for repeat in shown
        )
        verb = "is dropped as it repeats" if is_dropped else "repeats"
        verbs = "are dropped as they repeat" if is_dropped else "repeat"
        yield (
            f"audio compared by hash: {number:,} of {self.num_compared:,} utterances "
            f"{verb if number == 1 else verbs} another one: {named}"
        )
        num_leaked = sum(repeat.is_leaked for repeat in self.repeats)
        if num_leaked and not is_dropped:
            yield (
                f"{describe_number(num_leaked, 'utterance')} of train with the audio of one in eval, which `train` "
                "refuses: --duplicates drop removes them, or remove these rows from the manifest"
            )


def find_duplicates(splits: Sequence[SplitPlan]) -> Duplicates:
    """Compare the audio of all utterances.

    Args:
        splits: Prepared, each with all of its receipts.
    """
    # 48 bytes an utterance: 480 MB for ten million. Evaluation first, so that what is in both counts against train.
    ordered = sorted(splits, key=lambda split: split.name != "eval")
    hashes, places = list[NDArray[np.uint64]](), list[NDArray[np.int64]]()
    for number, split in enumerate(ordered):
        for shard in split.shards():
            receipt = read_receipt(shard.receipt)
            found = receipt.audio_hashes if receipt else ()
            keys = receipt.index["key"] if receipt else ()
            hashes.append(np.frombuffer(bytes.fromhex("".join(found)), ">u8").reshape(-1, 2).astype(np.uint64))
            position = np.arange(len(found))
            same = np.full_like(position, number), np.full_like(position, shard.number)
            rank = np.array([_rank(key) for key in keys], np.int64).reshape(-1, 2)
            places.append(np.column_stack([*same, position, rank]))
    values = np.concatenate(hashes) if hashes else np.empty((0, 2), np.uint64)
    place = np.concatenate(places) if places else np.empty((0, 5), np.int64)
    order = np.lexsort((place[:, 4], place[:, 3], place[:, 0], values[:, 1], values[:, 0]))
    ranked = values[order]
    is_repeated = np.zeros(len(values), bool)
    is_repeated[1:] = (ranked[1:] == ranked[:-1]).all(axis=1)
    first = order[np.maximum.accumulate(np.where(is_repeated, 0, np.arange(len(values))))]
    pairs = sorted(
        zip(order[is_repeated].tolist(), first[is_repeated].tolist(), strict=True),
        key=lambda pair: tuple(place[pair[0], [0, 3, 4]]),
    )
    shards = {(number, shard.number): shard for number, split in enumerate(ordered) for shard in split.shards()}
    repeats = (
        Repeat(
            shard=shards[tuple(place[later, :2].tolist())],
            position=int(place[later, 2]),
            first_shard=shards[tuple(place[earlier, :2].tolist())],
            first_position=int(place[earlier, 2]),
        )
        for later, earlier in pairs
    )
    return Duplicates(num_compared=len(values), repeats=tuple(repeats))


def _rank(key: str) -> tuple[int, int]:
    """Return the row of an utterance, and its number in it where the recording was cut, both from its key."""
    row, *_, last = key.split("-")
    return int(row), int(last) if last.isdecimal() else 0


def _name(shard: ShardPlan, position: int) -> str:
    """Return where an utterance comes from, in words."""
    receipt = read_receipt(shard.receipt)
    return f"{receipt.index['source'][position]} ({shard.split.name})" if receipt else shard.split.name
