"""How much memory a training step needs, by part, found without allocating it.

The network is built and differentiated on tensors that have shapes but no data, by the code that trains. So the answer
follows from the code itself: adapters, frozen layers, checkpointing and borrowed silence are counted as they are made.

What is not counted: the CUDA context, the workspaces of its libraries, and fragmentation. With --compile a step needs
less than is counted here.
"""

import math
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from whisper_shard.config.train import TrainConfig
from whisper_shard.model.device import autocast, explain_broken_install
from whisper_shard.model.forward import SpeechLoss
from whisper_shard.model.window import longest_window
from whisper_shard.train.build import adapt_model, wrap_model
from whisper_shard.train.events import PassShape, StepMemory
from whisper_shard.utterance import SAMPLE_RATE

_MOMENTS = 2  # of AdamW, for each trained value
# Moments of 8 bits, as bitsandbytes keeps them: one float32 scale for each block, and float32 in small tensors.
_MIN_QUANTIZED = 4096
_BLOCK = 256
_CPU = torch.device("cpu")  # shapes and dtypes, all that is counted, are those of a GPU


def estimate_memory(model_config: Any, config: TrainConfig, dtype: torch.dtype, shape: PassShape) -> StepMemory:
    """Return the memory of a step without allocating it; takes some seconds for the largest Whisper.

    Args:
        model_config: WhisperConfig.
        config: The settings.
        dtype: Of matrix products.
        shape: The largest pass of the step.

    Raises:
        ConfigError: There are fewer layers than are to be frozen, or peft is missing.
    """
    with _building_without_data(model_config, config) as network:
        trained = [p for p in network.parameters() if p.requires_grad]
        trained_bytes = sum(map(_count_bytes, trained))
        for parameter in trained:
            # It is counted as a part of its own.
            parameter.register_post_accumulate_grad_hook(_drop_gradient)  # type: ignore[no-untyped-call]
        return StepMemory(
            weights=sum(map(_count_bytes, (*network.parameters(), *network.buffers()))),
            gradients=trained_bytes,
            optimizer=sum(_count_moments(p, config.optimizer.optimizer) for p in trained),
            average=trained_bytes if config.evaluation.ema else 0,
            activations=_count_activations(network, config, dtype, shape),
        )


@contextmanager
def _building_without_data(model_config: Any, config: TrainConfig) -> Iterator[SpeechLoss]:
    """Give a network whose tensors have shapes only, as have all that are made meanwhile."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with explain_broken_install():
        from transformers import WhisperForConditionalGeneration

    plain = replace(config, compute=replace(config.compute, compile=False))
    without_data = FakeTensorMode(allow_non_fake_inputs=True)
    with torch.random.fork_rng(devices=()):
        with torch.device("meta"):
            model = WhisperForConditionalGeneration._from_config(model_config, attn_implementation="sdpa")
            model.requires_grad_(True)  # as loaded weights are, the encoder's positions included
            adapt_model(model, plain, torch.device("meta"))
        with without_data:
            model.to_empty(device=_CPU)  # autocast knows CPUs, but not the device meta
            model.tie_weights()  # the head is the embedding of tokens, which to_empty has split
        network = wrap_model(model, plain, _CPU)  # mel filters depend on values
        with without_data:
            yield network


def _count_activations(network: SpeechLoss, config: TrainConfig, dtype: torch.dtype, shape: PassShape) -> int:
    is_short = shape.window_samples < longest_window(network.model)
    live = LiveBytes(but=[*network.parameters(), *network.buffers()])
    with live, autocast(_CPU, dtype):
        silence = None
        if config.window.borrows_silence and is_short:
            silence = network.encode_silence(torch.empty(1, SAMPLE_RATE))
        tokens = torch.zeros(shape.rows, shape.tokens, dtype=torch.int64)
        loss, _ = network(
            torch.empty(shape.rows, shape.window_samples),
            tokens,
            tokens,
            torch.full((shape.rows,), shape.window_samples),
            seeds=range(shape.rows),
            kept=torch.arange(tokens.numel()),
            silence=silence,
        )
        loss.backward()
    return live.peak


def _drop_gradient(parameter: Tensor) -> None:
    parameter.grad = None


def _count_moments(parameter: Tensor, optimizer: str) -> int:
    if optimizer == "adamw" or parameter.numel() < _MIN_QUANTIZED:
        return _MOMENTS * _count_bytes(parameter)
    return _MOMENTS * (parameter.numel() + 4 * math.ceil(parameter.numel() / _BLOCK))


def _count_bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the tensors that are made while it is active, until they are freed.

    Works alike for tensors with and without data.

    Args:
        but: Tensors that were there before: views of them are not counted.
    """

    def __init__(self, but: Iterable[Tensor] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        """The most at any moment."""
        self._live = dict.fromkeys((tensor.untyped_storage()._cdata for tensor in but), 0)
        self._sum = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count what it has made."""
        result = func(*args, **(kwargs or {}))
        for value in tree_iter(result):
            if isinstance(value, Tensor):
                self._add(value.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        address = storage._cdata
        if address in self._live:
            return
        self._live[address] = storage.nbytes()
        self._sum += storage.nbytes()
        self.peak = max(self.peak, self._sum)
        weakref.finalize(storage, self._remove, address)

    def _remove(self, address: int) -> None:
        self._sum -= self._live.pop(address)
