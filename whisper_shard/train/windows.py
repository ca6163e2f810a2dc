"""Which window each utterance gets, and which utterances pass through the model together.

Whisper's encoder takes 30 s at a time, and costs the same for speech and for silence. Here a batch is cut into
micro-batches with their own windows: as long as their longest utterance plus a little silence, or the full 30 s for a
configured share of the utterances. What keeps the model good in 30 s windows is in `model.borrowed_silence`.

The window of an utterance depends on the global batch, the seed and the step only: neither the number of ranks nor the
size of a micro-batch changes the input of the model.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from whisper_shard.config.train import WindowConfig
from whisper_shard.keyed_random import draw_permutation, draw_uniform
from whisper_shard.utterance import MAX_SAMPLES, SAMPLE_RATE

WINDOW_GRAIN = 1600
"""Windows are multiples of this many samples (0.1 s): whole encoder positions, and few different shapes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatch:
    """Utterances that pass through the model together, all in windows of the same length."""

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
    """Size limit of one pass through the model."""

    utterances: int
    """Maximum number of utterances."""
    seconds: float = math.inf
    """Maximum of padded seconds; a single utterance is always allowed."""

    def rows(self, window_samples: int) -> int:
        """Return how many utterances in this window fit into one pass, at least 1."""
        fitting = min(self.seconds * SAMPLE_RATE / window_samples, float(self.utterances))
        return max(1, int(fitting))

    def halved(self, *, rows: int, window_samples: int) -> "PassLimit":
        """Return the limit to use after a pass of this size did not fit into memory."""
        seconds = rows * window_samples / SAMPLE_RATE
        return PassLimit(utterances=self.utterances, seconds=min(self.seconds, seconds) / 2)


def assign_windows(
    num_samples: NDArray[np.int64],
    *,
    config: WindowConfig,
    seed: int,
    epoch: int,
    step: int,
    total_steps: int,
    longest_window: int = MAX_SAMPLES,
) -> NDArray[np.int64]:
    """Return the window of every utterance of a global batch, in samples.

    Args:
        num_samples: Shape (N,), lengths of the utterances of all ranks in an order that no rank count changes.
        config: Settings of windows.
        seed: Seed of the run.
        epoch: From 0.
        step: Optimizer steps before this one, counted over all epochs.
        total_steps: Optimizer steps of the run; ``full_final`` is a share of them.
        longest_window: Samples in the model's own window.
    """
    windows = np.full(len(num_samples), longest_window, np.int64)
    if config.window != "auto" or step >= total_steps * (1.0 - config.full_final):
        return windows
    is_full = choose_full(len(num_samples), share=config.full_share, seed=seed, epoch=epoch, step=step)
    short = np.flatnonzero(~is_full)
    margins = draw_uniform(max(1, len(short)), seed, "window margin", epoch, step)
    for group, window in _group_by_length(num_samples[short], config=config, margins=margins):
        windows[short[group]] = min(window, longest_window)
    return windows


def choose_full(count: int, *, share: float, seed: int, epoch: int, step: int) -> NDArray[np.bool_]:
    """Choose the utterances of a step that get the full window.

    The number is ``count * share``, rounded so that errors do not add up: over any number of steps of the same size
    the total is off by less than one utterance.

    Args:
        count: Utterances in the step, over all ranks.
        share: 0 to 1.
        seed: Seed of the run.
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
    """Group the rows of one rank by window into passes of nearly equal size, long windows first.

    Args:
        window_samples: Shape (B,), window of each row; rows with 0 are left out.
        limit: Size limit of a pass.
    """
    batches = []
    # Long windows first: if memory runs out, it does so in the first pass, before much work is lost.
    for window in sorted({int(w) for w in window_samples if w > 0}, reverse=True):
        rows = np.flatnonzero(window_samples == window)
        num_passes = math.ceil(len(rows) / limit.rows(window))
        batches += [
            MicroBatch(rows=tuple(int(r) for r in part), window_samples=window)
            for part in np.array_split(rows, num_passes)
        ]
    return batches


def _group_by_length(
    num_samples: NDArray[np.int64], *, config: WindowConfig, margins: NDArray[np.float64]
) -> Iterator[tuple[NDArray[np.int64], int]]:
    """Yield (positions, window), longest first; a new window begins where too much of the current one is padding."""
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
