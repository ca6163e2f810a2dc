"""A live run as tensors by name, and back: parameters, moments of the optimizer, states of the random generators."""

import hashlib
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from whisper_shard.errors import StateError

_SAMPLED = 64  # values of each parameter that tell it from another


def fingerprint_model(model: nn.Module) -> str:
    """Return what tells a model from others of its shape: a digest of some values of each parameter."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        values = parameter.detach().flatten()
        sample = values[:: max(1, len(values) // _SAMPLED)].float().cpu()
        digest.update(name.encode() + sample.numpy().tobytes())
    return digest.hexdigest()


def capture_model(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return all parameters by name; tied ones appear once."""
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def restore_model(model: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Copy parameters by name into a model.

    Raises:
        StateError: The names or shapes are those of another model.
    """
    parameters = dict(model.named_parameters())
    if difference := _difference(parameters, tensors):
        raise StateError(f"the checkpoint is of another model: {difference}; use its own model or another run folder")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[name])


def capture_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the optimizer's tensors under ``<field>/<parameter>``: exp_avg, exp_avg_sq, step."""
    tensors = {}
    for name, parameter in model.named_parameters():
        for field, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{field}/{name}"] = value.detach()
    return tensors


def restore_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Put tensors captured by `capture_optimizer` back, on the device of each parameter.

    Raises:
        StateError: A tensor belongs to a parameter the model does not have.
    """
    parameters = dict(model.named_parameters())
    for key, value in tensors.items():
        field, _, name = key.partition("/")
        if name not in parameters:
            raise StateError(f"the checkpoint's optimizer has {key}, which this model lacks; use its own model")
        optimizer.state[parameters[name]][field] = value.clone().to(parameters[name].device)


def capture_random() -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return the states of the generators of python, numpy and torch, as tensors and as JSON."""
    version, words, gauss = random.getstate()
    numpy_state: Any = np.random.get_state(legacy=False)
    tensors = {
        "python": torch.tensor(words, dtype=torch.int64),
        "numpy": torch.from_numpy(numpy_state["state"]["key"].astype(np.int64)),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        tensors["cuda"] = torch.cuda.get_rng_state()
    numbers = {key: numpy_state[key] for key in ("has_gauss", "gauss")}
    return tensors, {"python": [version, gauss], "numpy": {"pos": int(numpy_state["state"]["pos"]), **numbers}}


def restore_random(tensors: Mapping[str, torch.Tensor], numbers: Mapping[str, Any]) -> None:
    """Put the generators back to where `capture_random` found them."""
    version, gauss = numbers["python"]
    random.setstate((version, tuple(tensors["python"].tolist()), gauss))
    position, has_gauss, cached = (numbers["numpy"][key] for key in ("pos", "has_gauss", "gauss"))
    np.random.set_state(("MT19937", tensors["numpy"].numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(tensors["torch"])
    if "cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["cuda"])


def _difference(parameters: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor]) -> str:
    """Say how two sets of tensors differ in names or shapes; empty if they do not."""
    for name in sorted(parameters.keys() ^ tensors.keys()):
        return f"{name} is only in {'the model' if name in parameters else 'the checkpoint'}"
    for name, parameter in parameters.items():
        if parameter.shape != tensors[name].shape:
            return f"{name} has shape {tuple(tensors[name].shape)} there and {tuple(parameter.shape)} here"
    return ""
