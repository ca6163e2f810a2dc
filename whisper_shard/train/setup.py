"""What a run is made of before it begins: device, network, optimizer, and the habits of the process."""

import ctypes
import gc
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType

import torch
from torch import nn

from whisper_shard.config import TrainConfig
from whisper_shard.errors import EXIT_AGAIN, EXIT_INTERRUPTED, StopRequested
from whisper_shard.stream.draws import hash_key
from whisper_shard.train.adapt import add_lora, checkpoint_encoder, compile_layers, freeze_encoder, freeze_layers
from whisper_shard.train.device import choose_device, choose_precision, set_threads, set_up_gpu
from whisper_shard.train.distributed import Ranks, join_ranks, leave_ranks
from whisper_shard.train.model import LoadedWhisper, SpeechLoss
from whisper_shard.train.silence import allow_lending

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # Source: mallopt(3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Where a run computes, and with whom."""

    device: torch.device
    """This rank's."""
    dtype: torch.dtype
    """Format of matrix products."""
    ranks: Ranks
    """Who takes part."""


@contextmanager
def open_machine(config: TrainConfig) -> Iterator[Machine]:
    """Choose device, precision and threads, and join the other ranks for the time of the run.

    Raises:
        ConfigError: The precision does not work on the device, or torchrun's environment is incomplete.
    """
    device = choose_device()
    dtype = choose_precision(config.precision, device)
    set_up_gpu(device)
    ranks = join_ranks(device)
    set_threads(config.threads)
    if device.type == "cpu":
        keep_freed_memory()
    try:
        yield Machine(device=device, dtype=dtype, ranks=ranks)
    finally:
        leave_ranks(ranks)


def keep_freed_memory() -> None:
    """Ask the allocator to keep what is freed: a step's big tensors else are mapped and cleared anew each time.

    Does nothing where the C library is not glibc. Source: mallopt(3).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, -1)


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


class StopRequest:
    """Remembers that SIGTERM or Ctrl-C has asked the run to stop; it does so after the step in hand."""

    def __init__(self) -> None:
        self.signal = 0

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        """Take note; a second Ctrl-C stops at once."""
        if self.signal == signal.SIGINT == number:
            raise KeyboardInterrupt
        self.signal = number


def stopped_by(number: int, run: Path, when: str) -> StopRequested:
    """Return the error that ends a run by a signal.

    Args:
        number: Of the signal.
        run: The run folder.
        when: Where the run stood.
    """
    return StopRequested(
        f"{run}: stopped by {signal.Signals(number).name} {when}, all is saved; the same command again goes on from "
        "there",
        exit_code=EXIT_INTERRUPTED if number == signal.SIGINT else EXIT_AGAIN,
    )


@contextmanager
def listen_for_stop() -> Iterator[StopRequest]:
    """Turn SIGTERM and SIGINT into requests for the time of a run; threads other than the main one cannot listen."""
    request = StopRequest()
    before = {}
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            before[number] = signal.signal(number, request)
    except ValueError:
        before = {}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
