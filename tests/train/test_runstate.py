"""The counters of a run survive being written down."""

import json

from tests.stream.test_ledger import make_batch
from whisper_shard.train.runstate import RunState, run_state_from_json


def test_a_ledger_comes_back_with_all_its_bits():
    state = RunState(step=3)
    state.ledger.add(make_batch(range(100), faults=[100]))
    assert state.ledger.delivered_digest > 2**53 and state.ledger.samples == 16_000
    assert run_state_from_json(json.loads(json.dumps(state.to_json()))) == state
