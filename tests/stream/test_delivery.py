"""The ledger notices what counts alone would not."""

import numpy as np
import pytest
import torch

from whisper_shard.stream.batch import Batch, Fault
from whisper_shard.stream.delivery import Ledger, Planned, sum_hashes

PLANNED = Planned(utterances=10, digest=sum_hashes(np.arange(10)))


def make_batch(ids, faults=()):
    return Batch(
        waveforms=torch.zeros(1, 1), num_samples=torch.tensor([16_000]), weights=torch.ones(1), keys=("",),
        texts=("",), languages=(None,), tasks=(None,), segments=((),), epoch=4, step=0, ids=tuple(ids),
        faults=tuple(Fault(id=i, key="k", message="damaged") for i in faults),
    )  # fmt: skip


def account(*batches):
    ledger = Ledger()
    for batch in batches:
        ledger.add(batch)
    return ledger


def test_complete_in_any_order_and_with_named_faults():
    ledger = account(make_batch([9, 8, 7, 0]), make_batch([1, 2, 3], faults=[5]), make_batch([4, 6]))
    assert ledger.is_complete(PLANNED)
    assert (ledger.delivered, ledger.skipped) == (9, 1)
    assert account(make_batch([3, 1]), make_batch([2])) == account(make_batch([1, 2, 3]))


@pytest.mark.parametrize("ids", [[0, 1, 2, 3, 4, 5, 6, 7, 8], [0, 1, 2, 3, 4, 5, 6, 7, 8, 8], [*range(10), 3]])
def test_lost_doubled_and_exchanged_utterances_are_noticed(ids):
    assert not account(make_batch(ids)).is_complete(PLANNED)


def test_hashes_of_neighbours_do_not_cancel():
    sums = {sum_hashes([i, j]) for i in range(60) for j in range(i, 60)}
    assert len(sums) == 60 * 61 // 2
