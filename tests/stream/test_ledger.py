"""The ledger notices what counts alone would not."""

import json

import numpy as np
import pytest
import torch

from whisper_shard.errors import StateError
from whisper_shard.stream.batch import Batch, Fault
from whisper_shard.stream.ledger import Ledger, combine_lines, sum_hashes


def make_batch(ids, faults=()):
    return Batch(
        waveforms=torch.zeros(1, 1), num_samples=torch.zeros(1), weights=torch.ones(1), keys=("",), texts=("",),
        languages=(None,), tasks=(None,), segments=((),), epoch=4, step=0, ids=tuple(ids),
        faults=tuple(Fault(id=i, key="k", message="damaged") for i in faults),
    )  # fmt: skip


def account(*batches):
    ledger = Ledger()
    for batch in batches:
        ledger.add(batch)
    return ledger.line(4, first_step=0, planned=[np.arange(6), np.arange(6, 10)])


def test_complete_in_any_order_and_with_named_faults():
    line = account(make_batch([9, 8, 7, 0]), make_batch([1, 2, 3], faults=[5]), make_batch([4, 6]))
    assert line.is_complete
    assert (line.planned, line.delivered, line.skipped) == (10, 9, 1)
    assert json.loads(json.dumps(line.to_json()))["planned_hash"] == f"{line.planned_hash:016x}"


@pytest.mark.parametrize("ids", [[0, 1, 2, 3, 4, 5, 6, 7, 8], [0, 1, 2, 3, 4, 5, 6, 7, 8, 8], [*range(10), 3]])
def test_lost_doubled_and_exchanged_utterances_are_noticed(ids):
    assert not account(make_batch(ids)).is_complete


def test_ranks_add_up():
    lines = [account(make_batch(range(rank, 10, 3))) for rank in range(3)]
    assert not any(line.is_complete for line in lines)
    assert combine_lines(lines).is_complete


def test_ranks_of_different_plans_are_refused():
    other = Ledger().line(4, first_step=2, planned=[np.arange(10)])
    with pytest.raises(StateError, match=r"ranks disagree on first_step: 0 and 2"):
        combine_lines([account(), other])


def test_hashes_of_neighbours_do_not_cancel():
    sums = {sum_hashes([i, j]) for i in range(60) for j in range(i, 60)}
    assert len(sums) == 60 * 61 // 2
