"""State: a few integers that name a place, and refuse another stream."""

import dataclasses
import json

import pytest

from whisper_shard.errors import StateError
from whisper_shard.stream.resume import PlanState, plan_state_from_json

STATE = PlanState(
    plan_version=1,
    index_sha256="aa",
    seed=42,
    batch_size=64,
    batch_seconds=0.0,
    length_buckets=32,
    weights=(),
    pack_by="",
    pack_gap_seconds=(0.1, 0.5),
    steps_per_epoch=10,
)


def test_survives_json():
    state = dataclasses.replace(STATE, epoch=3, step=7, weights=(0.5, 2.0))
    assert plan_state_from_json(json.loads(json.dumps(state.to_json()))) == state


def test_a_state_from_before_there_was_a_share_of_packing_packs_all():
    saved = {name: value for name, value in STATE.to_json().items() if name != "pack_share"}
    STATE.check(plan_state_from_json(saved))


def test_the_step_after_the_last_is_the_first_of_the_next_epoch():
    assert (STATE.at(2, 10).epoch, STATE.at(2, 10).step) == (3, 0)
    assert (STATE.at(2, 9).epoch, STATE.at(2, 9).step) == (2, 9)
    saved = STATE.to_json() | {"epoch": 1, "step": 10}
    assert (plan_state_from_json(saved).epoch, plan_state_from_json(saved).step) == (2, 0)


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("plan_version", 2), ("index_sha256", "bb"), ("seed", 1), ("batch_size", 32), ("batch_seconds", 9.0),
        ("length_buckets", 4), ("weights", (1.0,)), ("pack_by", "speaker"), ("pack_gap_seconds", (0.0, 0.5)),
        ("pack_share", 0.5),
    ],
)  # fmt: skip
def test_refuses_another_stream_and_names_both_values(name, other):
    with pytest.raises(StateError) as caught:
        STATE.check(dataclasses.replace(STATE, **{name: other}))
    assert f"{name} was {other!r}, now it is {getattr(STATE, name)!r}" in str(caught.value)


def test_another_place_is_no_other_stream():
    STATE.check(dataclasses.replace(STATE, epoch=5, step=3))


@pytest.mark.parametrize("broken", [{}, {"seed": 3}, STATE.to_json() | {"extra": 1}])
def test_refuses_what_is_no_state(broken):
    with pytest.raises(StateError, match=r"cannot be parsed"):
        plan_state_from_json(broken)


@pytest.mark.parametrize("place", [{"step": -1}, {"epoch": -1}, {"step": 1.5}])
def test_refuses_impossible_places(place):
    with pytest.raises(StateError, match=r"no such place"):
        plan_state_from_json(STATE.to_json() | place)
