"""What a run is made of before it begins: device, network, optimizer, and the habits of the process."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import nn

from whisper_shard.config.train import TrainConfig
from whisper_shard.keyed_random import hash_key
from whisper_shard.model.adapters import add_lora, checkpoint_encoder, compile_layers, freeze_encoder, freeze_layers
from whisper_shard.model.borrowed_silence import allow_lending
from whisper_shard.model.forward import SpeechLoss
from whisper_shard.model.whisper import LoadedWhisper


def build_network(loaded: LoadedWhisper, config: TrainConfig, device: torch.device) -> SpeechLoss:
    """Put the model on the device, decide what of it is trained, and wrap it with features and loss.

    Raises:
        ConfigError: There are fewer layers than are to be frozen, or peft is missing.
    """
    model = loaded.model.to(device)
    if config.freeze_encoder:
        freeze_encoder(model)
    freeze_layers(model, config.freeze_layers)
    if config.lora_rank:
        torch.manual_seed(hash_key(config.seed, "lora") % 2**63)
        add_lora(model, config.lora_rank)
        model.to(device)
    if config.gradient_checkpointing:
        checkpoint_encoder(model)
    if config.compile:
        compile_layers(model)
    if config.hears_silence:
        allow_lending(model)
    network = SpeechLoss(
        model,
        label_smoothing=config.label_smoothing,
        stochastic_depth=config.stochastic_depth,
        spec_augment={} if config.spec_augment else None,
    )
    network.to(device).train()
    return network


def build_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Return a fused AdamW; norms, biases and embeddings of positions are not decayed.

    A vector has no direction that decay could shrink without shifting what the layer puts out; positions rarely seen
    (late ones, with short windows) get no gradient but would decay all the same.
    """
    decayed: list[nn.Parameter] = []
    exempt: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_exempt = parameter.ndim < 2 or "embed_positions" in name
            (exempt if is_exempt else decayed).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": exempt, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=config.lr, fused=True)


def resolve_config(config: TrainConfig) -> TrainConfig:
    """Return the configuration with consequences drawn: packed windows need a packing stream."""
    if config.window == "packed" and not config.pack_by:
        return replace(config, pack_by="speaker")
    return config


@contextmanager
def quiet_garbage_collector() -> Iterator[None]:
    """Keep Python's collector from stopping the run to look at objects that live for all of it."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()
