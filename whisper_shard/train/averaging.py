"""Means of weights: over checkpoints, over time, and between the base model and the tuned one. They cost nothing later.

All work on state dicts, so they do not know the model. Integer tensors are no quantity and come from the last state.

Source: checkpoint averaging as in icefall; interpolation with the base model: arXiv:2109.01903 (WiSE-FT), for Whisper
arXiv:2505.20477.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from whisper_shard.errors import ConfigError, StateError

State = Mapping[str, Tensor]
"""Weights by name."""


def average_states(states: Iterable[State]) -> dict[str, Tensor]:
    """Return the mean of states, which are taken one at a time.

    Raises:
        StateError: No state at all, or states of different models.
    """
    mean: dict[str, Tensor] = {}
    for count, state in enumerate(states):
        if count == 0:
            mean = {name: tensor.detach().clone() for name, tensor in state.items()}
            continue
        _check_same(mean, state)
        for name, tensor in state.items():
            _move(mean[name], tensor, share=1.0 / (count + 1))
    if not mean:
        raise StateError("no checkpoint to average")
    return mean


def interpolate_states(base: State, tuned: State, share: float) -> dict[str, Tensor]:
    """Return ``(1 - share) * base + share * tuned``.

    Args:
        base: Weights before training.
        tuned: Weights after it.
        share: 0 is the base model, 1 the tuned one.

    Raises:
        ConfigError: A share outside 0 to 1.
        StateError: States of different models.
    """
    if not 0.0 <= share <= 1.0:
        raise ConfigError(f"share of the tuned model is {share:g}; it must lie between 0 and 1")
    _check_same(base, tuned)
    mixed = {name: tensor.detach().clone() for name, tensor in base.items()}
    for name, tensor in tuned.items():
        _move(mixed[name], tensor, share=share)
    return mixed


class MovingAverage:
    """Exponential mean of a model's trained weights over its steps.

    Args:
        model: Whose weights are followed; those that are not trained are not kept.
        decay: Share of the old mean that stays at each step, 0 to 1; early on less, so that the start is forgotten.

    Raises:
        ConfigError: A decay outside 0 to 1.
    """

    def __init__(self, model: nn.Module, decay: float = 0.999) -> None:
        if not 0.0 <= decay < 1.0:
            raise ConfigError(f"decay of the moving average is {decay:g}; it must lie between 0 and 1")
        self.decay = decay
        self.num_updates = 0
        self.weights = {name: weight.detach().clone() for name, weight in _trained(model)}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the weights after a step.

        Source: the warm-up (1 + n) / (10 + n) is that of tf.train.ExponentialMovingAverage.
        """
        self.num_updates += 1
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        names, current = zip(*_trained(model), strict=True)
        torch._foreach_lerp_([self.weights[name] for name in names], list(current), 1.0 - decay)

    def state_dict(self) -> dict[str, Tensor]:
        """Return all that resumes: the means, and the number of updates as ``num_updates``."""
        return {**self.weights, "num_updates": torch.tensor(self.num_updates)}

    def load_state_dict(self, state: State) -> None:
        """Take back what `state_dict` gave.

        Raises:
            StateError: The state is of another model.
        """
        weights = {name: tensor for name, tensor in state.items() if name != "num_updates"}
        _check_same(self.weights, weights)
        for name, tensor in weights.items():
            self.weights[name].copy_(tensor)
        self.num_updates = int(state["num_updates"])


def _trained(model: nn.Module) -> list[tuple[str, Tensor]]:
    return [(name, weight.detach()) for name, weight in model.named_parameters() if weight.requires_grad]


def _move(mean: Tensor, tensor: Tensor, *, share: float) -> None:
    """Move a mean towards a tensor by a share of the way; both ends are met exactly."""
    if not mean.is_floating_point():
        mean.copy_(tensor)
        return
    mean.lerp_(tensor.detach().to(mean.device, mean.dtype), share)


def _check_same(one: State, other: State) -> None:
    if one.keys() != other.keys():
        name = min(one.keys() ^ other.keys())
        raise StateError(f"weights {name} are in one state and not in the other: these are different models")
    for name, tensor in one.items():
        if tensor.shape != other[name].shape:
            raise StateError(
                f"weights {name} have shapes {tuple(tensor.shape)} and {tuple(other[name].shape)}: "
                "these are different models"
            )
