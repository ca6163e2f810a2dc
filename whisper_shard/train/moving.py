"""An exponential moving average of the weights in training: a second model, steadier than the one that learns."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from whisper_shard.errors import StateError


@dataclass(frozen=True, slots=True, kw_only=True)
class MovingAverage:
    """The average, in float32, of everything that is trained; updated in place after each step."""

    decay: float
    """How much of the average a step keeps, 0 to 1; less in the first steps, so that it does not begin too late."""
    sources: Mapping[str, Tensor]
    """What is averaged: the live parameters."""
    weights: Mapping[str, Tensor]
    """The average of each."""

    @classmethod
    def of(cls, model: nn.Module, decay: float) -> "MovingAverage":
        """Begin with the weights a model has now."""
        sources = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
        return cls(decay=decay, sources=sources, weights={name: p.clone() for name, p in sources.items()})

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the weights after a step; nothing waits for the device.

        Args:
            step: Optimizer steps before this one. The average keeps at most (1 + step) / (10 + step).

        Source: num_updates in https://www.tensorflow.org/api_docs/python/tf/train/ExponentialMovingAverage.
        """
        share = 1.0 - min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.weights.values()), list(self.sources.values()), share)

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Put a saved average back.

        Raises:
            StateError: It is of other parameters.
        """
        if tensors.keys() != self.weights.keys():
            raise StateError("the checkpoint's moving average is of other parameters; use its own model")
        for name, tensor in tensors.items():
            self.weights[name].copy_(tensor)
