"""How long a window each utterance is given, and which utterances pass through the model together.

Whisper listens to 30 s at a time, and most of its work is done on that window, silence or not. Here a batch becomes
micro-batches with windows of their own: as long as their longest utterance and a little silence, and for a share of
the utterances, where one is asked for, the full 30 s. What keeps the model good in 30 s is in `silence`.

The window of an utterance depends on the global batch, the seed and the step, and on nothing else: neither the number
of ranks nor the size of a micro-batch changes what the model hears.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from whisper_shard.config.train import TrainConfig
from whisper_shard.keyed_random import draw_permutation, draw_uniform
from whisper_shard.utterance import MAX_SAMPLES, SAMPLE_RATE

WINDOW_GRAIN = 1600
"""Windows are multiples of so many samples (0.1 s): whole encoder positions, and few distinct shapes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatch:
    """Utterances that pass through the model together, in a window of the same length."""

    rows: tuple[int, ...]
    """Rows of the batch, at least one."""
    window_samples: int
    """Every waveform is cut or padded with zeros to this many samples."""

    @property
    def window_seconds(self) -> float:
        """Length of the window in seconds."""
        return self.window_samples / SAMPLE_RATE


@dataclass(frozen=True, slots=True, kw_only=True)
class PassLimit:
    """How much fits into one pass through the model."""

    utterances: int
    """Most utterances a pass."""
    seconds: float = math.inf
    """Most padded seconds a pass; one utterance always goes."""

    def rows(self, window_samples: int) -> int:
        """Return how many utterances of this window go into one pass, at least 1."""
        fitting = min(self.seconds * SAMPLE_RATE / window_samples, float(self.utterances))
        return max(1, int(fitting))

    def halved(self, *, rows: int, window_samples: int) -> "PassLimit":
        """Return the limit after a pass of this size did not fit."""
        seconds = rows * window_samples / SAMPLE_RATE
        return PassLimit(utterances=self.utterances, seconds=min(self.seconds, seconds) / 2)


def assign_windows(
    num_samples: NDArray[np.int64],
    *,
    config: TrainConfig,
    epoch: int,
    step: int,
    total_steps: int,
    longest_window: int = MAX_SAMPLES,
) -> NDArray[np.int64]:
    """Return the window of every utterance of a global batch, in samples.

    Args:
        num_samples: Shape (N,), lengths of the utterances of all ranks in an order that no rank count changes.
        config: The knobs of windows, and the seed.
        epoch: From 0.
        step: Optimizer steps before this one, counted over all epochs.
        total_steps: Optimizer steps of the run; decides when the last, full phase begins.
        longest_window: Samples in the model's own window.
    """
    windows = np.full(len(num_samples), longest_window, np.int64)
    if config.window != "auto" or step >= total_steps * (1.0 - config.full_final):
        return windows
    is_full = choose_full(len(num_samples), share=config.full_share, seed=config.seed, epoch=epoch, step=step)
    short = np.flatnonzero(~is_full)
    margins = draw_uniform(max(1, len(short)), config.seed, "window margin", epoch, step)
    for group, window in _group_by_length(num_samples[short], config=config, margins=margins):
        windows[short[group]] = min(window, longest_window)
    return windows


def choose_full(count: int, *, share: float, seed: int, epoch: int, step: int) -> NDArray[np.bool_]:
    """Choose the utterances of a step that get the full window.

    The number is ``count * share`` rounded up or down so that what one step rounds away the next one gets: over n
    steps of the same size it is off by less than one utterance.

    Args:
        count: Utterances in the step, over all ranks.
        share: 0 to 1.
        seed: Of the run.
        epoch: From 0.
        step: Counted over all epochs.
    """
    offset = float(draw_uniform(1, seed, "full share")[0])
    exact = count * share
    num_full = math.floor(exact * (step + 1) + offset) - math.floor(exact * step + offset)
    chosen = draw_permutation(count, seed, "full windows", epoch, step)[:num_full]
    is_full = np.zeros(count, bool)
    is_full[chosen] = True
    return is_full


def cut_micro_batches(window_samples: NDArray[np.int64], *, limit: PassLimit) -> list[MicroBatch]:
    """Put the rows of one rank that share a window into passes of nearly equal size, long windows first.

    Args:
        window_samples: Shape (B,), window of each row; rows with 0 are left out.
        limit: What one pass can hold.
    """
    batches = []
    for window in sorted({int(w) for w in window_samples if w > 0}, reverse=True):
        rows = np.flatnonzero(window_samples == window)
        num_passes = math.ceil(len(rows) / limit.rows(window))
        batches += [
            MicroBatch(rows=tuple(int(r) for r in part), window_samples=window)
            for part in np.array_split(rows, num_passes)
        ]
    return batches


def _group_by_length(
    num_samples: NDArray[np.int64], *, config: TrainConfig, margins: NDArray[np.float64]
) -> Iterator[tuple[NDArray[np.int64], int]]:
    """Yield (positions, window): longest first, and a new window as soon as too much of the old one is padding."""
    order = np.argsort(-num_samples, kind="stable")
    low, high = (SAMPLE_RATE * seconds for seconds in config.margin_seconds)
    lengths = np.maximum(num_samples[order], config.min_window_seconds * SAMPLE_RATE - low)
    start = 0
    while start < len(order):
        wanted = lengths[start:] + low + (high - low) * margins[start]
        window = WINDOW_GRAIN * math.ceil(wanted[0] / WINDOW_GRAIN)
        mostly_padding = np.flatnonzero(wanted < window * (1.0 - config.max_padding))
        end = start + max(1, int(mostly_padding[0])) if len(mostly_padding) else len(order)
        yield order[start:end], window
        start = end
