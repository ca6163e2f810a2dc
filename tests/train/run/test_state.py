"""The counters of a run survive being written down."""

import json
import math

from tests.stream.test_delivery import make_batch
from whisper_shard.train.run.state import RunState, run_state_from_json


def test_a_ledger_comes_back_with_all_its_bits():
    state = RunState(step=3)
    state.ledger.add(make_batch(range(100), faults=[100]))
    assert state.ledger.delivered_digest > 2**53 and state.ledger.samples == 16_000
    assert run_state_from_json(json.loads(json.dumps(state.to_json()))) == state


def test_an_evaluation_whose_loss_is_not_finite_is_never_the_best():
    state = RunState()
    assert state.record_evaluation(0.5, 2.0)
    assert not state.record_evaluation(0.1, math.nan)
    assert state.record_evaluation(0.5, 1.5)
    assert (state.best_wer, state.best_loss) == (0.5, 1.5)
