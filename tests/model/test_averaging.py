import pytest
import torch

from whisper_shard.errors import ConfigError, StateError
from whisper_shard.model.averaging import MovingAverage, average_states, interpolate_states


def make_state(value):
    return {"weight": torch.full((2, 3), float(value)), "count": torch.tensor(int(value))}


def test_mean_of_states():
    states = [make_state(value) for value in (1, 2, 6)]
    mean = average_states(iter(states))
    torch.testing.assert_close(mean["weight"], torch.full((2, 3), 3.0))
    assert mean["count"] == 6
    assert (states[0]["weight"] == 1).all()


def test_mean_of_one_state_is_that_state():
    state = make_state(4)
    assert torch.equal(average_states([state])["weight"], state["weight"])


def test_mean_of_nothing_is_an_error():
    with pytest.raises(StateError, match="no checkpoint to average"):
        average_states([])


@pytest.mark.parametrize(("share", "value"), [(0.0, 2.0), (0.25, 3.0), (1.0, 6.0)])
def test_interpolation_meets_both_ends(share, value):
    mixed = interpolate_states(make_state(2), make_state(6), share)
    assert (mixed["weight"] == value).all()


def test_interpolation_outside_is_refused():
    with pytest.raises(ConfigError, match=r"share of the tuned model is 1\.5; it must lie between 0 and 1"):
        interpolate_states(make_state(1), make_state(2), 1.5)


def test_states_of_different_models_are_refused():
    with pytest.raises(StateError, match="weights bias are in one state and not in the other"):
        average_states([make_state(1), {**make_state(1), "bias": torch.zeros(1)}])
    with pytest.raises(StateError, match=r"weights weight have shapes \(2, 3\) and \(3, 2\)"):
        interpolate_states(make_state(1), {**make_state(1), "weight": torch.zeros(3, 2)}, 0.5)


def test_average_follows_what_is_trained_and_begins_quickly():
    model = torch.nn.Linear(1, 1)
    model.bias.requires_grad_(False)
    torch.nn.init.constant_(model.weight, 0.0)
    average = MovingAverage.of(model, 0.5)
    assert list(average.weights) == ["weight"]
    torch.nn.init.constant_(model.weight, 1.0)
    seen = []
    for step in (0, 1, 100):
        average.update(step)
        seen.append(average.weights["weight"].item())
    assert seen == pytest.approx([0.9, 1 - 0.1 * 2 / 11, 1 - 0.1 * 2 / 11 / 2])
    assert model.weight.item() == 1.0
    with pytest.raises(StateError, match="the checkpoint's moving average is of other parameters"):
        average.restore({"bias": torch.zeros(1)})
