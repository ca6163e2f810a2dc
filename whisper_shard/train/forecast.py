"""What a run is going to compute: windows, passes and memory of its steps, before the first one.

Lengths come from the index and are cut into windows as in training, for a sample of steps over the whole run; nothing
is read from the shards.
"""

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from whisper_shard.config.train import TrainConfig
from whisper_shard.dataset.index import Dataset
from whisper_shard.model.labels import Labeler
from whisper_shard.model.window import longest_window
from whisper_shard.stream.loader import Loader
from whisper_shard.train.events import Forecast, PassShape
from whisper_shard.train.memory import estimate_memory
from whisper_shard.train.run.context import Machine
from whisper_shard.train.run.snapshot import Trainable
from whisper_shard.train.step import first_limit
from whisper_shard.train.windows import MicroBatch, assign_windows, cut_micro_batches
from whisper_shard.utterance import SAMPLE_RATE

SAMPLED_STEPS = 64
"""Steps that are looked at, spread over the run."""
SAMPLED_TEXTS = 64
"""Texts whose tokens are counted, the first of the data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _PlannedStep:
    num_samples: NDArray[np.int64]  # of each row of all ranks
    windows: NDArray[np.int64]
    passes: list[list[MicroBatch]]  # of each rank


def forecast_run(
    trainable: Trainable,
    config: TrainConfig,
    machine: Machine,
    *,
    loader: Loader,
    dataset: Dataset,
    labeler: Labeler,
    total_steps: int,
) -> Forecast:
    """Return what a run is going to compute, on all ranks.

    Args:
        trainable: The network and what is trained of it.
        config: The settings.
        machine: Device, precision and ranks.
        loader: Knows the lengths of each step.
        dataset: Its texts are those of a typical utterance.
        labeler: Turns texts into labels.
        total_steps: Optimizer steps of the run.

    Raises:
        ConfigError: There are fewer layers than are to be frozen, or peft is missing.
        TrainingError: A text is too long.
    """
    longest = longest_window(trainable.model)
    planned = list(_plan_steps(config, machine, loader, total_steps=total_steps, longest=longest))
    windows = np.concatenate([step.windows for step in planned])
    passes = [micro_batches for step in planned for micro_batches in step.passes]
    most = max(itertools.chain(*passes), key=lambda one: len(one.rows) * one.window_samples)
    tokens = _count_tokens(dataset, labeler)
    largest = PassShape(rows=len(most.rows), window_samples=most.window_samples, tokens=tokens)
    return Forecast(
        num_parameters=sum(p.numel() for p in trainable.network.parameters()),
        num_trained=sum(p.numel() for p in trainable.parameters),
        utterances=len(windows) / len(planned),
        audio_seconds=float(sum(step.num_samples.sum() for step in planned)) / SAMPLE_RATE / len(planned),
        window_seconds=float(windows.sum()) / SAMPLE_RATE / len(planned),
        windows=(float(windows.min()) / SAMPLE_RATE, float(windows.max()) / SAMPLE_RATE),
        passes=(min(map(len, passes)), max(map(len, passes))),
        largest=largest,
        memory=estimate_memory(trainable.model.config, config, machine.dtype, largest, world=machine.ranks.world),
        device_bytes=device_memory(machine.device),
    )


def sample_steps(total_steps: int, count: int) -> list[int]:
    """Return the numbers of steps spread over a run, the first and the last included where there are two."""
    return sorted({round(number) for number in np.linspace(0, total_steps - 1, min(count, total_steps))})


def device_memory(device: torch.device) -> int:
    """Return the bytes of memory of a device; of a CPU, those of the machine."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _plan_steps(
    config: TrainConfig, machine: Machine, loader: Loader, *, total_steps: int, longest: int
) -> Iterator[_PlannedStep]:
    limit = first_limit(config.compute, machine.device)
    for number in sample_steps(total_steps, SAMPLED_STEPS):
        epoch, step = divmod(number, loader.steps_per_epoch)
        of_ranks = loader.row_samples(epoch, step)
        num_samples = np.concatenate(of_ranks)
        if not len(num_samples):
            continue
        order = np.argsort(num_samples, kind="stable")
        windows = np.zeros_like(num_samples)
        windows[order] = assign_windows(
            num_samples[order],
            config=config.window,
            seed=config.stream.seed,
            epoch=epoch,
            step=number,
            total_steps=total_steps,
            longest_window=longest,
        )
        split = np.split(windows, np.cumsum([len(rows) for rows in of_ranks])[:-1])
        passes = [cut_micro_batches(part, limit=limit) for part in split]
        yield _PlannedStep(num_samples=num_samples, windows=windows, passes=passes)


def _count_tokens(dataset: Dataset, labeler: Labeler) -> int:
    """Return the tokens of the longest of some texts, as the decoder reads them."""
    texts = next(iter(dataset.pieces("text", rows=SAMPLED_TEXTS))).column("text").to_pylist()
    return max(len(labeler.label(text).labels) for text in texts[:SAMPLED_TEXTS])
