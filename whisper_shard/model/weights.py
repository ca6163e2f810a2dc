"""Parameters of a model by name: read, loaded, and compared by a fingerprint."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from whisper_shard.errors import StateError
from whisper_shard.model.sharded import copy_whole

_SAMPLED = 64  # values of each parameter that stand for it, up to twice as many


def fingerprint_model(model: nn.Module) -> str:
    """Return a digest of some values of each parameter, to recognize a model among others of its shape."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        digest.update(name.encode() + _sample(parameter).cpu().numpy().tobytes())
    return digest.hexdigest()


def sample_parameters(parameters: Iterable[Tensor]) -> Tensor:
    """Return some values of each parameter, (N,) float32 on the CPU; the device is waited for once."""
    return torch.cat([_sample(parameter) for parameter in parameters]).cpu()


def _sample(parameter: Tensor) -> Tensor:
    values = parameter.detach().flatten()
    return values[:: max(1, len(values) // _SAMPLED)].float()


def model_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return all parameters by name, without copying; tied ones appear once."""
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def load_weights(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy parameters by name into a model, in place; of sharded ones, the rows of this rank.

    Args:
        model: Is given the weights.
        tensors: Whole tensors by name.

    Raises:
        StateError: Names or shapes differ.
    """
    parameters = dict(model.named_parameters())
    if difference := _difference(parameters, tensors):
        raise StateError(f"the checkpoint is of another model: {difference}; use its own model or another run folder")
    for name, parameter in parameters.items():
        copy_whole(parameter, tensors[name])


def effective_weight(linear: Any) -> Tensor:
    """Return the weight of a linear layer, with low-rank updates of peft merged."""
    if not hasattr(linear, "get_delta_weight"):
        weight: Tensor = linear.weight.detach()
        return weight
    weight = linear.base_layer.weight.detach()
    for adapter in linear.active_adapters:
        weight = weight + linear.get_delta_weight(adapter).detach()
    return weight


def _difference(parameters: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> str:
    """Describe the first difference in names or shapes; empty if there is none."""
    for name in sorted(parameters.keys() ^ tensors.keys()):
        return f"{name} is only in {'the model' if name in parameters else 'the checkpoint'}"
    for name, parameter in parameters.items():
        if parameter.shape != tensors[name].shape:
            return f"{name} has shape {tuple(tensors[name].shape)} there and {tuple(parameter.shape)} here"
    return ""
