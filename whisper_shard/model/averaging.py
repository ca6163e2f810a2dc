"""Averages of weights: one model from several, as fast as any single one.

Three averages are tried at the end of a run, each against the best checkpoint: the mean of the last evaluated
checkpoints (`average_states`), a moving average over all steps (`MovingAverage`), and interpolation between the base
model and the fine-tuned one (`interpolate_states`). All work on state dicts and do not know the model. Integer tensors
cannot be averaged; the last state's value is taken.

Source: averaging of checkpoints, arXiv:1803.05407 (SWA); moving average, Polyak and Juditsky 1992; interpolation with
the base model, arXiv:2109.01903 (WiSE-FT), for Whisper arXiv:2505.20477.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from whisper_shard.errors import ConfigError, StateError
from whisper_shard.model.sharded import copy_whole

State = Mapping[str, Tensor]
"""Weights by name."""


def average_states(states: Iterable[State]) -> dict[str, Tensor]:
    """Return the mean of states; only one of them and the mean are in memory at a time.

    Raises:
        StateError: There is no state, or they are of different models.
    """
    mean: dict[str, Tensor] = {}
    for count, state in enumerate(states):
        if count == 0:
            mean = {name: tensor.detach().clone() for name, tensor in state.items()}
            continue
        _check_same(mean, state)
        for name, tensor in state.items():
            _move(mean[name], tensor, share=1.0 / (count + 1))  # the running mean: no sum that grows with the count
    if not mean:
        raise StateError("no checkpoint to average")
    return mean


def interpolate_states(base: State, tuned: State, share: float) -> dict[str, Tensor]:
    """Return ``(1 - share) * base + share * tuned``.

    Args:
        base: Weights before fine-tuning.
        tuned: Weights after it.
        share: 0 is the base model, 1 the tuned one.

    Raises:
        ConfigError: The share is not in 0 to 1.
        StateError: The states are of different models.
    """
    if not 0.0 <= share <= 1.0:
        raise ConfigError(f"share of the tuned model is {share:g}; it must lie between 0 and 1")
    _check_same(base, tuned)
    mixed = {name: tensor.detach().clone() for name, tensor in base.items()}
    for name, tensor in tuned.items():
        _move(mixed[name], tensor, share=share)
    return mixed


def _move(mean: Tensor, tensor: Tensor, *, share: float) -> None:
    """Move a mean towards a tensor by a share of the distance, in place; shares of 0 and 1 are exact."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class MovingAverage:
    """Exponential moving average, in float32, of all trained parameters; updated in place after each step."""

    decay: float
    """Weight of the average in each update, 0 to 1; lower in the first steps, or the first weights would dominate."""
    sources: Mapping[str, Tensor]
    """The parameters in training."""
    weights: Mapping[str, Tensor]
    """Their averages."""

    @classmethod
    def of(cls, model: nn.Module, decay: float) -> "MovingAverage":
        """Return an average that begins with the current weights of a model."""
        sources = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
        return cls(decay=decay, sources=sources, weights={name: p.clone() for name, p in sources.items()})

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Update the average after a step; nothing waits for the device.

        Args:
            step: Optimizer steps before this one. The decay is at most (1 + step) / (10 + step).

        Source: num_updates in https://www.tensorflow.org/api_docs/python/tf/train/ExponentialMovingAverage.
        """
        share = 1.0 - min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.weights.values()), list(self.sources.values()), share)

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Load a saved average, whole tensors by name.

        Raises:
            StateError: Its parameters are not those in training.
        """
        if tensors.keys() != self.weights.keys():
            raise StateError("the checkpoint's moving average is of other parameters; use its own model")
        for name, tensor in tensors.items():
            copy_whole(self.weights[name], tensor)
