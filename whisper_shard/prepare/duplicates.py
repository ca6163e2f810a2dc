"""The same audio twice in a corpus, found by a hash of the samples of each utterance as they are stored.

Equal recordings under different names, formats without loss, or levels (with ``--peak``) become equal samples.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from whisper_shard.prepare.plan import SplitPlan
from whisper_shard.prepare.receipts import read_receipt
from whisper_shard.report.quantities import describe_number

HASH_BYTES = 16
"""Bytes of SHA-256 that are kept: that any two of 10^9 different utterances have the same has a chance of 10^-21."""
SHOWN_PAIRS = 3
"""Pairs that are named."""


def hash_samples(samples: NDArray[np.int16]) -> str:
    """Return the hash of an utterance's samples, in hexadecimal digits."""
    return hashlib.sha256(samples.tobytes()).hexdigest()[: 2 * HASH_BYTES]


@dataclass(frozen=True, slots=True, kw_only=True)
class Duplicates:
    """What a comparison of all utterances has found."""

    num_compared: int
    """Utterances."""
    num_repeated: int
    """Utterances whose audio an earlier one has; evaluation comes before training."""
    num_leaked: int
    """Utterances of ``train`` whose audio is in ``eval``."""
    pairs: tuple[tuple[str, str], ...]
    """The first few: a repeated utterance, and the one it repeats; leaked ones first."""

    def describe(self) -> Iterator[str]:
        """Yield lines about it."""
        if not self.num_repeated:
            compared = describe_number(self.num_compared, "utterance")
            yield f"audio compared by hash: no two of {compared} have the same"
            return
        named = "; ".join(f"{later} as {earlier}" for later, earlier in self.pairs)
        yield (
            f"audio compared by hash: {self.num_repeated:,} of {self.num_compared:,} utterances "
            f"{'repeats' if self.num_repeated == 1 else 'repeat'} another one: {named}"
        )
        if self.num_leaked:
            leaked = describe_number(self.num_leaked, "utterance")
            yield (
                f"{leaked} of train with the audio of one in eval, which `train` "
                "refuses: remove these rows from the manifest"
            )


def find_duplicates(splits: Sequence[SplitPlan]) -> Duplicates:
    """Compare the audio of all utterances.

    Args:
        splits: Prepared, each with all of its receipts.
    """
    # 32 bytes an utterance: 320 MB for ten million. Evaluation first, so that what is in both counts against train.
    ordered = sorted(splits, key=lambda split: split.name != "eval")
    hashes, places = list[NDArray[np.uint64]](), list[NDArray[np.int64]]()
    for number, split in enumerate(ordered):
        for shard in split.shards():
            receipt = read_receipt(shard.receipt)
            found = receipt.audio_hashes if receipt else ()
            hashes.append(np.frombuffer(bytes.fromhex("".join(found)), ">u8").reshape(-1, 2).astype(np.uint64))
            position = np.arange(len(found))
            places.append(np.stack([np.full_like(position, number), np.full_like(position, shard.number), position], 1))
    values = np.concatenate(hashes) if hashes else np.empty((0, 2), np.uint64)
    order = np.lexsort((np.arange(len(values)), values[:, 1], values[:, 0]))
    ranked = values[order]
    is_repeated = np.zeros(len(values), bool)
    is_repeated[1:] = (ranked[1:] == ranked[:-1]).all(axis=1)
    first = order[np.maximum.accumulate(np.where(is_repeated, 0, np.arange(len(values))))]
    place = np.concatenate(places) if places else np.empty((0, 3), np.int64)
    later, earlier = order[is_repeated], first[is_repeated]
    is_leaked = place[later, 0] != place[earlier, 0]
    shown = np.lexsort((later, ~is_leaked))[:SHOWN_PAIRS]
    return Duplicates(
        num_compared=len(values),
        num_repeated=len(later),
        num_leaked=int(is_leaked.sum()),
        pairs=tuple((_name(ordered, place[later[i]]), _name(ordered, place[earlier[i]])) for i in shown.tolist()),
    )


def _name(splits: Sequence[SplitPlan], place: NDArray[np.int64]) -> str:
    """Return where an utterance comes from, in words."""
    number, shard, position = place.tolist()
    split = splits[number]
    receipt = read_receipt(next(found for found in split.shards() if found.number == shard).receipt)
    return f"{receipt.index['source'][position]} ({split.name})" if receipt else split.name
