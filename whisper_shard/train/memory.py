"""How much memory a training step needs, by part, found without allocating it.

The network is built and differentiated on tensors that have shapes but no data, by the code that trains. So the answer
follows from the code itself: adapters, frozen layers, checkpointing and borrowed silence are counted as they are made.

What is not counted: the CUDA context, the workspaces of its libraries, and fragmentation. With --compile a step needs
less than is counted here, and with --gradient-checkpointing up to one gradient of the token embedding less.
"""

import copy
import math
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
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
_FEW_LAYERS = 2  # that are trained, of encoder and of decoder: the first and the last of them
_CPU = torch.device("cpu")  # shapes and dtypes, all that is counted, are those of a GPU


def estimate_memory(
    model_config: Any, config: TrainConfig, dtype: torch.dtype, shape: PassShape, *, world: int = 1
) -> StepMemory:
    """Return the memory of a step on one rank without allocating it.

    Layers of a kind are alike, so a few of each are counted, and the rest follows from what one more of them adds.

    Args:
        model_config: WhisperConfig.
        config: The settings.
        dtype: Of matrix products.
        shape: The largest pass of the step.
        world: Number of ranks, which matters with ``--shard``.

    Raises:
        ConfigError: There are fewer layers than are to be frozen, or peft is missing.
    """
    full = (model_config.encoder_layers, model_config.decoder_layers)
    few = (min(full[0], config.regularization.freeze_layers + _FEW_LAYERS), min(full[1], _FEW_LAYERS))
    if sum(full) <= 3 * sum(few) + 2:  # no more than the three small models have together
        few = full

    def count(encoder_layers: int, decoder_layers: int) -> NDArray[np.int64]:
        return _count_parts(model_config, config, dtype, shape, layers=(encoder_layers, decoder_layers))

    parts = base = count(*few)
    if missing := full[0] - few[0]:
        parts = parts + missing * (count(few[0] + 1, few[1]) - base)
    if missing := full[1] - few[1]:
        parts = parts + missing * (count(few[0], few[1] + 1) - base)
    weights, gradients, optimizer, average, rest, layer, trained_part, *phases = parts.tolist()
    memory = StepMemory(
        weights=weights, gradients=gradients, optimizer=optimizer, average=average, activations=max(phases)
    )
    if config.compute.shard == "none" or world == 1:
        return memory
    # What this rank keeps, and what is whole for a time: with "all", the next layer is fetched while one computes.
    gathered = weights if config.compute.shard == "states" else rest + 2 * layer
    return replace(
        memory,
        weights=weights // world + gathered,
        gradients=gradients // world + trained_part,
        optimizer=optimizer // world,
        average=average // world,
    )


def _count_parts(
    model_config: Any, config: TrainConfig, dtype: torch.dtype, shape: PassShape, *, layers: tuple[int, int]
) -> NDArray[np.int64]:
    """Return bytes: weights, gradients, optimizer, average; see `_count_gathered`; most activations in each phase.

    Args:
        layers: Of encoder and decoder, instead of those of the model.
    """
    model_config = copy.deepcopy(model_config)
    model_config.encoder_layers, model_config.decoder_layers = layers
    with _building_without_data(model_config, config) as network:
        trained = [p for p in network.parameters() if p.requires_grad]
        trained_bytes = sum(map(_count_bytes, trained))
        for parameter in trained:
            # It is counted as a part of its own.
            parameter.register_post_accumulate_grad_hook(_drop_gradient)  # type: ignore[no-untyped-call]
        fixed = [
            sum(map(_count_bytes, (*network.parameters(), *network.buffers()))),
            trained_bytes,
            sum(_count_moments(p, config.optimizer.optimizer) for p in trained),
            trained_bytes if config.evaluation.ema else 0,
            *_count_gathered(network),
        ]
        return np.array([*fixed, *_count_activations(network, config, dtype, shape)])


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


def _count_activations(network: SpeechLoss, config: TrainConfig, dtype: torch.dtype, shape: PassShape) -> list[int]:
    """Return the most bytes in each phase of a pass.

    The peak of a pass may be in another phase with many layers than with a few, but that of a phase grows evenly.
    """
    is_short = shape.window_samples < longest_window(network.model)
    live = LiveBytes(but=[*network.parameters(), *network.buffers()])
    for stack in (network.model.model.encoder.layers, network.model.model.decoder.layers):
        stack[0].register_forward_pre_hook(lambda *_: live.begin_phase())
        stack[-1].register_forward_hook(lambda _module, _inputs, output: _begin_phases_after(output, live))
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
        live.begin_phase()
        loss.backward()
    return live.peaks


def _begin_phases_after(layer_output: Any, live: "LiveBytes") -> None:
    """Begin a phase now, after the last layer, and another one where the backward pass comes back to it."""
    live.begin_phase()
    if layer_output.requires_grad:
        layer_output.register_hook(lambda _gradient: live.begin_phase())


def _count_gathered(network: SpeechLoss) -> tuple[int, int, int]:
    """Return bytes: of weights in no layer, of those of the largest layer, and of the most gradients of either."""
    model = network.model.model
    layers = [[*layer.parameters()] for layer in (*model.encoder.layers, *model.decoder.layers)]
    in_layers = {id(p) for layer in layers for p in layer}
    rest = [p for p in network.parameters() if id(p) not in in_layers]
    gradients = [sum(_count_bytes(p) for p in part if p.requires_grad) for part in (rest, *layers)]
    return sum(map(_count_bytes, rest)), max(sum(map(_count_bytes, layer)) for layer in layers), max(gradients)


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
        self.peaks = [0]
        """The most at any moment of each phase."""
        self._live = dict.fromkeys((tensor.untyped_storage()._cdata for tensor in but), 0)
        self._sum = 0

    def begin_phase(self) -> None:
        """Count the most from now on anew."""
        self.peaks.append(self._sum)

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
        self.peaks[-1] = max(self.peaks[-1], self._sum)
        weakref.finalize(storage, self._remove, address)

    def _remove(self, address: int) -> None:
        self._sum -= self._live.pop(address)
