"""How long the device needs for a training step, and for its log-mel: what a loader must keep up with."""

import time
from dataclasses import replace
from statistics import median

import torch

from whisper_shard.config.tools import BenchConfig
from whisper_shard.config.train import TrainConfig
from whisper_shard.dataset.index import Dataset
from whisper_shard.model.device import choose_device
from whisper_shard.model.labels import Labeler
from whisper_shard.model.log_mel import LogMel
from whisper_shard.model.whisper import load_whisper
from whisper_shard.stream.loader import open_loader
from whisper_shard.train.build import build_trainable
from whisper_shard.train.global_batch import GlobalBatchBuilder, Requests
from whisper_shard.train.run.context import open_machine
from whisper_shard.train.silence_source import find_silence_source
from whisper_shard.train.step import TrainStep

WARM_UP_STEPS = 1
"""Steps that are not counted: they allocate, compile, and find what fits into a pass."""


class DeviceLogMel:
    """Computes log-mel spectrograms on the device and waits until they are there.

    Args:
        n_mels: Mel bins.
    """

    def __init__(self, n_mels: int = 80) -> None:
        self._device = choose_device()
        self._log_mel = LogMel(n_mels).to(self._device)

    def __call__(self, waveforms: torch.Tensor) -> torch.Tensor:
        """Return (B, n_mels, T) of waveforms (B, S)."""
        log_mel: torch.Tensor = self._log_mel(waveforms.to(self._device, non_blocking=True))
        if self._device.type == "cuda":
            torch.cuda.synchronize()
        return log_mel


def measure_step_seconds(dataset: Dataset, config: BenchConfig, *, num_steps: int = 3) -> float:
    """Return the median time of one optimizer step of ``config.model`` with the default training settings.

    Args:
        dataset: Where the batches come from.
        config: Batch settings and the model.
        num_steps: Steps that are measured.

    Raises:
        ModelError: The model cannot be used.
    """
    training = TrainConfig(model=config.model, stream=replace(config.stream, workers=0))
    loaded = load_whisper(config.model)
    with open_machine(training.compute) as machine:
        trainable = build_trainable(loaded, training, machine)
        builder = GlobalBatchBuilder(
            labeler=Labeler(loaded.tokenizer, is_multilingual=loaded.is_multilingual),
            config=training,
            ranks=machine.ranks,
            total_steps=num_steps,
            longest_window=trainable.longest_window,
        )
        silence_source = None
        if training.window.borrows_silence:
            silence_source = find_silence_source([dataset], training).waveform
        train_step = TrainStep(trainable, builder, training, machine, silence_source)
        loader = open_loader(dataset, training.stream)
        times = []
        for step, batch in zip(range(WARM_UP_STEPS + num_steps), loader, strict=False):
            start = time.perf_counter()
            train_step(batch, step=step, lr=0.0, requests=Requests())
            if machine.device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
        loader.close()
    return median(times[WARM_UP_STEPS:] or times)
