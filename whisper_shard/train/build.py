"""What a run builds before its first step: network, optimizer, scaler, and the settings of the process."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from whisper_shard.config.settings import replace_settings
from whisper_shard.config.train import OptimizerConfig, TrainConfig
from whisper_shard.errors import ConfigError
from whisper_shard.keyed_random import hash_key
from whisper_shard.model.adapters import add_lora, checkpoint_layers, compile_layers, freeze_encoder, freeze_layers
from whisper_shard.model.averaging import MovingAverage
from whisper_shard.model.borrowed_silence import enable_shared_attention
from whisper_shard.model.device import quiet_bitsandbytes
from whisper_shard.model.forward import SpeechLoss
from whisper_shard.model.whisper import LoadedWhisper
from whisper_shard.train.run.context import Machine
from whisper_shard.train.run.snapshot import Trainable
from whisper_shard.train.sharding import shard_network

if TYPE_CHECKING:
    from whisper_shard.train.adamw_8bit import AdamW8bit


def build_trainable(loaded: LoadedWhisper, config: TrainConfig, machine: Machine) -> Trainable:
    """Return everything that optimizer steps change; all ranks must call it together.

    Raises:
        ConfigError: There are fewer layers than are to be frozen, peft or bitsandbytes is missing, or moments of 8 bits
            are to be sharded.
        TrainingError: Another rank is gone.
    """
    network, decay = build_network(loaded, config, machine.device), config.evaluation.ema
    shard, ranks = config.compute.shard, machine.ranks
    if shard != "none" and ranks.world > 1 and config.optimizer.optimizer != "adamw":
        raise ConfigError(
            f"--shard {shard} with --optimizer {config.optimizer.optimizer}: its moments cannot be spread over ranks; "
            "use one of the two"
        )
    sharding = None if shard == "none" or ranks.world == 1 else shard_network(network, shard, ranks)
    return Trainable(
        network=network,
        optimizer=build_optimizer(network.model, config.optimizer),
        scaler=make_scaler(machine),
        average=MovingAverage.of(network.model, decay) if decay else None,
        sharding=sharding,
    )


def build_network(loaded: LoadedWhisper, config: TrainConfig, device: torch.device) -> SpeechLoss:
    """Move the model to the device, freeze or adapt its layers, and wrap it with log-mel and loss.

    Raises:
        ConfigError: There are fewer layers than are to be frozen, or peft is missing.
    """
    return wrap_model(adapt_model(loaded.model.to(device), config, device), config, device)


def adapt_model(model: Any, config: TrainConfig, device: torch.device) -> Any:
    """Freeze or adapt the layers of a WhisperForConditionalGeneration that is on the device, in place, and return it.

    Raises:
        ConfigError: There are fewer layers than are to be frozen, or peft is missing.
    """
    regularization = config.regularization
    if regularization.freeze_encoder:
        freeze_encoder(model)
    freeze_layers(model, regularization.freeze_layers)
    if regularization.lora_rank:
        torch.manual_seed(hash_key(config.stream.seed, "lora") % 2**63)
        add_lora(model, regularization.lora_rank)
        model.to(device)
    if config.compute.gradient_checkpointing:
        checkpoint_layers(model)
    if config.compute.compile:
        compile_layers(model)
    if config.window.borrows_silence:
        enable_shared_attention(model)
    return model


def wrap_model(model: Any, config: TrainConfig, device: torch.device) -> SpeechLoss:
    """Return an adapted model with log-mel and loss, ready to be trained."""
    network = SpeechLoss(
        model,
        label_smoothing=config.regularization.label_smoothing,
        stochastic_depth=config.regularization.stochastic_depth,
        spec_augment={} if config.regularization.spec_augment else None,
    )
    network.log_mel.to(device)  # the model is there
    network.train()
    return network


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Return an AdamW that decays neither norms nor biases nor position embeddings.

    Decaying a bias or the gain of a norm shifts what the layer puts out and simplifies nothing. Late positions, which
    short windows rarely reach, get no gradient but would decay all the same.

    Raises:
        ConfigError: bitsandbytes is missing.
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
    groups = [group for group in groups if group["params"]]
    if config.optimizer == "adamw-8bit":
        return _load_adamw_8bit()(groups)
    return torch.optim.AdamW(groups, lr=0.0, fused=True)  # the learning rate is set anew at each step


def _load_adamw_8bit() -> "type[AdamW8bit]":
    quiet_bitsandbytes()
    try:
        from whisper_shard.train.adamw_8bit import AdamW8bit
    except ImportError as error:
        raise ConfigError("--optimizer adamw-8bit needs bitsandbytes: pip install 'whisper-shard[8bit]'") from error
    return AdamW8bit


def make_scaler(machine: Machine) -> torch.amp.GradScaler:
    """Return a scaler of the loss, enabled with float16 only."""
    return torch.amp.GradScaler(machine.device.type, enabled=machine.dtype == torch.float16)


def resolve_config(config: TrainConfig) -> TrainConfig:
    """Return the configuration with implied settings filled in: the learning rate, and the stream of packed windows."""
    implied: dict[str, Any] = {"lr": config.peak_lr}
    if config.window.window == "packed" and not config.stream.pack_by:
        implied["pack_by"] = "speaker"
    return replace_settings(config, implied)


@contextmanager
def pause_garbage_collector() -> Iterator[None]:
    """Keep Python's cyclic collector from scanning, again and again, objects that live as long as the run."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()
