"""What training changes, and copies of it as tensors by name: moments of the optimizer, states of random generators."""

import random
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from whisper_shard.errors import StateError
from whisper_shard.model.averaging import MovingAverage
from whisper_shard.model.forward import SpeechLoss
from whisper_shard.model.sharded import is_sharded, own_rows, take_own_rows
from whisper_shard.model.window import POSITION_SAMPLES
from whisper_shard.train.ranks import Ranks
from whisper_shard.train.sharding import Sharding


@dataclass(frozen=True, slots=True, kw_only=True)
class Trainable:
    """All that optimizer steps change in place, and checkpoints hold."""

    network: SpeechLoss
    """The model and its loss."""
    optimizer: torch.optim.Optimizer
    """An AdamW over the parameters that are trained."""
    scaler: torch.amp.GradScaler
    """Scales the loss for float16; disabled in other formats."""
    average: MovingAverage | None = None
    """Moving average of the weights, if configured."""
    sharding: Sharding | None = None
    """How all this is spread over the ranks; None: each has everything."""

    def whole_weights(self) -> AbstractContextManager[None]:
        """Have all weights on every rank for the time; see `Sharding.whole_weights`."""
        return nullcontext() if self.sharding is None else self.sharding.whole_weights()

    @property
    def model(self) -> Any:
        """The WhisperForConditionalGeneration within the network."""
        return self.network.model

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The parameters that are trained."""
        return [p for p in self.network.parameters() if p.requires_grad]

    @property
    def longest_window(self) -> int:
        """Samples in the model's own window."""
        positions: int = self.model.config.max_source_positions
        return positions * POSITION_SAMPLES


def copy_own_tensors(groups: Mapping[str, Mapping[str, torch.Tensor]], ranks: Ranks) -> dict[str, dict[str, Any]]:
    """Return copies, in the memory of the host, of what this rank writes into a checkpoint.

    Args:
        groups: Groups of tensors by name.
        ranks: The processes that write together: each its rows of sharded tensors, rank 0 all others.
    """
    return {
        group: {
            name: own_rows(tensor).detach().to("cpu", copy=True)
            for name, tensor in tensors.items()
            if ranks.is_first or is_sharded(tensor)
        }
        for group, tensors in groups.items()
    }


def capture_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the optimizer's state as tensors under ``<field>/<parameter>``: exp_avg, exp_avg_sq, step."""
    tensors = {}
    for name, parameter in model.named_parameters():
        for field, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{field}/{name}"] = _as_own_tensor(field, value)
    return tensors


def _as_own_tensor(field: str, value: torch.Tensor | int) -> torch.Tensor:
    if isinstance(value, int):  # the number of steps, with moments of 8 bits
        return torch.tensor(value)
    # What the 256 codes of such moments stand for is one tensor for all parameters, and safetensors refuses those.
    return value.detach().clone() if field.startswith("qmap") else value.detach()


def restore_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Put back the tensors of `capture_optimizer`, on the device of each parameter; of sharded ones, this rank's rows.

    Raises:
        StateError: A tensor belongs to a parameter that the model does not have.
    """
    parameters = dict(model.named_parameters())
    for key, value in tensors.items():
        field, _, name = key.partition("/")
        if name not in parameters:
            raise StateError(f"the checkpoint's optimizer has {key}, which this model lacks; use its own model")
        is_number = value.dtype == torch.int64
        state = optimizer.state[parameters[name]]
        state[field] = int(value) if is_number else take_own_rows(value.clone(), parameters[name])


def capture_random() -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return the states of the random generators of python, numpy and torch, as tensors and as JSON values."""
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
    """Put the random generators back into the states of `capture_random`."""
    version, gauss = numbers["python"]
    random.setstate((version, tuple(tensors["python"].tolist()), gauss))
    position, has_gauss, cached = (numbers["numpy"][key] for key in ("pos", "has_gauss", "gauss"))
    np.random.set_state(("MT19937", tensors["numpy"].numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(tensors["torch"])
    if "cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["cuda"])
