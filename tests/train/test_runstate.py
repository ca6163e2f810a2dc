"""The ledger."""

import numpy as np

from whisper_shard.train.runstate import Ledger, digest_ids
from whisper_shard.utterance import SAMPLE_RATE


def test_ledger_tells_sets_apart_but_not_orders():
    parts, whole, twice = Ledger(), Ledger(), Ledger()
    for ids in ([3, 1], [0], [2]):
        parts.add(ids, samples=SAMPLE_RATE, empty_rows=0)
    whole.add(range(4), samples=3 * SAMPLE_RATE, empty_rows=0)
    twice.add([0, 1, 2, 2], samples=3 * SAMPLE_RATE, empty_rows=0)
    assert parts == whole != twice
    assert whole.digest == digest_ids(np.arange(4, dtype=np.uint64))
