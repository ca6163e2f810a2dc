"""What of a model is trained, and at what price: frozen layers, low-rank updates, recomputation, compilation."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from whisper_shard.errors import ConfigError
from whisper_shard.model.weights import effective_weight

LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
"""Linear layers that get low-rank updates: all of attention and feed-forward."""
COMPILED_PROGRAMS = 16
"""Programs torch.compile may make of the layers of a model before it gives up on more."""


def freeze_encoder(model: Any) -> None:
    """Train the decoder only; the backward pass then stops at the encoder's states."""
    for weight in model.model.encoder.parameters():
        weight.requires_grad_(False)


def freeze_layers(model: Any, num_layers: int) -> None:
    """Keep the convolutions and the first ``num_layers`` layers of the encoder as they are.

    Raises:
        ConfigError: The encoder has fewer layers.
    """
    encoder = model.model.encoder
    if num_layers > len(encoder.layers):
        raise ConfigError(f"--freeze-layers {num_layers}: the encoder has {len(encoder.layers)} layers")
    if num_layers == 0:
        return
    for module in (encoder.conv1, encoder.conv2, *encoder.layers[:num_layers]):
        for weight in module.parameters():
            weight.requires_grad_(False)


def checkpoint_encoder(model: Any) -> None:
    """Recompute the encoder's layers in the backward pass instead of keeping what is between them."""
    encoder = model.model.encoder
    if hasattr(encoder, "activation_checkpointing_enable"):
        encoder.activation_checkpointing_enable({"use_reentrant": False})
    else:  # its older name
        encoder.gradient_checkpointing_enable({"use_reentrant": False})


def compile_layers(model: Any) -> None:
    """Compile each layer with torch.compile: one program for all layers, windows of any length.

    There are nine at most: encoder and decoder, with borrowed silence and without, each again for a single row, and the
    donor's. torch counts them together, and by default would run the ninth uncompiled.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, COMPILED_PROGRAMS)
    for layer in (*model.model.encoder.layers, *model.model.decoder.layers):
        layer.compile(dynamic=True)


def add_lora(model: Any, rank: int, *, alpha: float | None = None, dropout: float = 0.0) -> None:
    """Freeze a model and add low-rank updates to its attention and feed-forward layers, in place.

    Args:
        model: WhisperForConditionalGeneration.
        rank: Rank of the updates, at least 1.
        alpha: Updates are scaled by alpha / rank; None: twice the rank.
        dropout: Probability on the input of the updates, when training.

    Raises:
        ConfigError: peft is not installed, or the rank is not positive.

    Source: LoRA, arXiv:2106.09685.
    """
    if rank < 1:
        raise ConfigError(f"--lora-rank is {rank}; it must be at least 1")
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ConfigError("--lora-rank needs peft: pip install 'whisper-shard[lora]'") from error
    config = LoraConfig(r=rank, lora_alpha=alpha or 2 * rank, lora_dropout=dropout, target_modules=list(LORA_TARGETS))
    inject_adapter_in_model(config, model)


def plain_state_dict(model: Any) -> dict[str, Tensor]:
    """Return the weights under their Hugging Face names, low-rank updates merged into them.

    The tensors are those of the model where nothing had to be merged: copy before changing them.
    """
    modules = dict(model.named_modules())
    return dict(_plain_weights(modules, model.state_dict()))


def _plain_weights(modules: dict[str, Any], state: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in state.items():
        owner, _, leaf = name.rpartition(".")
        if ".lora_" in name:
            continue
        if not owner.endswith(".base_layer"):
            yield name, tensor
            continue
        layer = owner.removesuffix(".base_layer")
        yield f"{layer}.{leaf}", effective_weight(modules[layer]) if leaf == "weight" else tensor
