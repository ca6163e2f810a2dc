"""Choose what of a model is trained, and trade memory for time: frozen layers, LoRA, checkpointing, compilation."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from whisper_shard.errors import ConfigError
from whisper_shard.model.device import quiet_bitsandbytes
from whisper_shard.model.weights import effective_weight, model_weights

LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
"""Linear layers that get low-rank updates: all in attention and feed-forward blocks."""
RECOMPILE_LIMIT = 16
"""Programs that torch.compile may make of the layers before it runs further variants uncompiled."""


def freeze_encoder(model: Any) -> None:
    """Train the decoder only; the backward pass then stops at the encoder states."""
    for weight in model.model.encoder.parameters():
        weight.requires_grad_(False)


def freeze_layers(model: Any, num_layers: int) -> None:
    """Freeze the convolutions and the first ``num_layers`` layers of the encoder.

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


def checkpoint_layers(model: Any) -> None:
    """Recompute what layers keep for the backward pass when it comes to them, instead of keeping it.

    Of the decoder too: for each layer it keeps keys and values of the whole window, however short the text.

    Source: gradient checkpointing, arXiv:1604.06174.
    """
    if hasattr(model, "activation_checkpointing_enable"):
        model.activation_checkpointing_enable({"use_reentrant": False})
    else:  # its name in earlier versions of transformers 5
        model.gradient_checkpointing_enable({"use_reentrant": False})


def compile_layers(model: Any) -> None:
    """Compile each layer with torch.compile: one program for all layers, windows of any length."""
    # Nine variants at most: encoder and decoder, with borrowed silence and without, each again for a single row, and
    # the encoder over the silence source. torch counts them together; by default the ninth would run uncompiled.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, RECOMPILE_LIMIT)
    for layer in (*model.model.encoder.layers, *model.model.decoder.layers):
        layer.compile(dynamic=True)


def add_lora(model: Any, rank: int, *, alpha: float | None = None, dropout: float = 0.0) -> None:
    """Freeze a model and add low-rank updates to its attention and feed-forward layers, in place.

    Args:
        model: WhisperForConditionalGeneration.
        rank: Rank of the updates, at least 1.
        alpha: Updates are scaled by alpha / rank; None: alpha is twice the rank.
        dropout: Dropout probability of the input of the updates, when training.

    Raises:
        ConfigError: peft is not installed, or the rank is not positive.

    Source: LoRA, arXiv:2106.09685.
    """
    if rank < 1:
        raise ConfigError(f"--lora-rank is {rank}; it must be at least 1")
    quiet_bitsandbytes()
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ConfigError("--lora-rank needs peft: pip install 'whisper-shard[lora]'") from error
    config = LoraConfig(r=rank, lora_alpha=alpha or 2 * rank, lora_dropout=dropout, target_modules=list(LORA_TARGETS))
    inject_adapter_in_model(config, model)


def plain_state_dict(model: Any) -> dict[str, Tensor]:
    """Return the weights under their Hugging Face names, with low-rank updates merged.

    Tensors without an update are those of the model, not copies.
    """
    modules = dict(model.named_modules())
    # Whisper has no buffers. `state_dict` would shard again what was gathered from several ranks.
    state = {name: parameter.detach() for name, parameter in model.named_parameters(remove_duplicate=False)}
    return dict(_merged_weights(modules, state))


def fold_updates(model: Any) -> dict[str, Tensor]:
    """Return the parameters by name, with each low-rank update moved into the weight that it adds to.

    The model they are loaded into computes the same, and their mean over several states is that of the weights: the
    product of two mean factors is not the mean of the products.
    """
    weights = model_weights(model)
    for name, module in model.named_modules():
        if hasattr(module, "get_delta_weight"):
            weights[f"{name}.base_layer.weight"] = effective_weight(module)
    return {name: torch.zeros_like(tensor) if ".lora_B." in name else tensor for name, tensor in weights.items()}


def _merged_weights(modules: dict[str, Any], state: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in state.items():
        owner, _, leaf = name.rpartition(".")
        if ".lora_" in name:
            continue
        if not owner.endswith(".base_layer"):
            yield name, tensor
            continue
        layer = owner.removesuffix(".base_layer")
        yield f"{layer}.{leaf}", effective_weight(modules[layer]) if leaf == "weight" else tensor
