"""Whether short windows still stand for 30 s: the same utterances, both ways, with the same weights.

Borrowed silence is an approximation, and so training watches it: after every so many steps a few utterances of the step
are computed in 30 s windows and in their short ones, without gradient and without anything random. Training goes on
as if nothing had happened, unless it is told to pad more utterances to 30 s.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from whisper_shard.config.train import WindowConfig
from whisper_shard.model.borrowed_silence import SilenceStates
from whisper_shard.model.device import autocast, free_memory, is_out_of_memory, send
from whisper_shard.model.forward import SpeechLoss
from whisper_shard.model.window import fit_window
from whisper_shard.train.global_batch import GlobalBatch, GlobalBatchBuilder
from whisper_shard.train.ranks import sum_over_ranks
from whisper_shard.train.run.context import Machine
from whisper_shard.train.run.snapshot import Trainable
from whisper_shard.train.run.state import RunState
from whisper_shard.train.windows import MicroBatch, PassLimit, cut_micro_batches

NUM_COMPARED = 4
"""Utterances of a comparison, however large the batch."""
MIN_GAP = 0.05
"""A gap up to this mean loss of a token is never too wide."""
MAX_GAP_SHARE = 0.2
"""A gap up to this share of the loss in 30 s windows is never too wide.

Of random fours of test utterances, after 30 to 600 steps of whisper-base on read speech, with noise, with music and of
mixed lengths (benchmarks/bench_silence.py), few were above both limits (docs/training.md, "Windows").
"""
RAISE_AFTER = 2
"""Comparisons in a row with too wide a gap after which the share of 30 s windows is raised, if so configured."""
RAISE_BY = 0.125
"""Added to the share of 30 s windows each time."""
MAX_FULL_SHARE = 0.5
"""It is not raised above this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowGap:
    """Mean loss of a token of the same utterances, both ways; the same on all ranks."""

    utterances: int
    """Utterances compared, at least one."""
    full: float
    """In 30 s windows."""
    borrowed: float
    """In short windows with borrowed silence."""

    @property
    def gap(self) -> float:
        """How much higher the loss is in 30 s windows."""
        return self.full - self.borrowed

    @property
    def is_wide(self) -> bool:
        """Whether the gap is too wide, in tokens' loss and as a share of it."""
        return self.gap > max(MIN_GAP, MAX_GAP_SHARE * self.full)


@dataclass(frozen=True, slots=True, kw_only=True)
class GapMeter:
    """Compares 30 s windows and short ones with the current weights."""

    trainable: Trainable
    """The model and its loss."""
    builder: GlobalBatchBuilder
    """Has the labeler, and the length of the model's own window."""
    machine: Machine
    """Device, precision and ranks."""
    silence_source: Tensor
    """(1, S) waveform whose silence short windows borrow."""

    def measure(self, global_batch: GlobalBatch, limit: PassLimit) -> WindowGap | None:
        """Compare the first utterances of rank 0 that were in short windows; None: there is none.

        All ranks must call it together. It changes neither weights nor gradients nor the state of a random generator.

        Args:
            global_batch: The last step's.
            limit: Size limit of a pass.

        Raises:
            MemoryError: On all ranks: rank 0 has too little memory for it.
            TrainingError: Another rank is gone.
        """
        sums = torch.zeros(4, dtype=torch.float64)
        with self.trainable.whole_weights():
            windows = choose_compared(global_batch.windows, longest_window=self.builder.longest_window)
            if self.machine.ranks.is_first and windows.any():
                sums = self._try_to_sum(global_batch, windows, limit)
        utterances, num_tokens, full, borrowed = sum_over_ranks(sums, self.machine.ranks).tolist()
        if math.isnan(utterances):
            raise MemoryError("too little memory to compare windows")
        if not num_tokens:
            return None
        return WindowGap(utterances=int(utterances), full=full / num_tokens, borrowed=borrowed / num_tokens)

    def _try_to_sum(self, global_batch: GlobalBatch, windows: NDArray[np.int64], limit: PassLimit) -> Tensor:
        """Return what `_sum_losses` does; if memory runs out, NaN: the other ranks wait for an answer in any case."""
        try:
            return self._sum_losses(global_batch, windows, limit)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        free_memory(self.machine.device)  # only now: the traceback of the error held the tensors
        return torch.full((4,), math.nan, dtype=torch.float64)

    @torch.no_grad()
    def _sum_losses(self, global_batch: GlobalBatch, windows: NDArray[np.int64], limit: PassLimit) -> Tensor:
        """Return utterances, tokens, and sums of token losses in 30 s windows and in short ones, (4,) on the host."""
        device = self.machine.device
        loss = SpeechLoss(self.trainable.model)  # without label smoothing
        loss.log_mel = self.trainable.network.log_mel
        full = np.where(windows > 0, self.builder.longest_window, 0)
        sums = torch.zeros(2, 2, device=device)
        with _evaluating(self.trainable.network), autocast(device, self.machine.dtype):
            silence = loss.encode_silence(send(self.silence_source, device))
            for kind, (lengths, shared) in enumerate(((full, None), (windows, silence))):
                for micro_batch in cut_micro_batches(lengths, limit=limit):
                    sums[kind] += self._run_pass(loss, global_batch, micro_batch, shared)
        (full_sum, num_tokens), (borrowed_sum, _) = sums.tolist()
        utterances = np.count_nonzero(windows)
        return torch.tensor([utterances, num_tokens, full_sum, borrowed_sum], dtype=torch.float64)

    def _run_pass(
        self, loss: SpeechLoss, global_batch: GlobalBatch, micro_batch: MicroBatch, silence: SilenceStates | None
    ) -> Tensor:
        """Return (sum of token losses, number of tokens), on the device."""
        device, batch, rows = self.machine.device, global_batch.local, list(micro_batch.rows)
        labels = self.builder.labeler.collate([global_batch.labels[row] for row in rows])
        window = micro_batch.window_samples
        waveforms = send(batch.waveforms[rows, :window], device)
        return torch.stack(
            loss(
                fit_window(waveforms, window),
                send(labels.decoder_input_ids, device),
                send(labels.labels, device),
                send(batch.num_samples[rows], device),
                kept=send(labels.kept, device),
                silence=silence,
            )
        )


def choose_compared(windows: NDArray[np.int64], *, longest_window: int) -> NDArray[np.int64]:
    """Return the windows of the first NUM_COMPARED rows that are in short ones, and 0 for all other rows."""
    short = np.flatnonzero((windows > 0) & (windows < longest_window))[:NUM_COMPARED]
    chosen = np.zeros_like(windows)
    chosen[short] = windows[short]
    return chosen


def judge_gap(gap: WindowGap, state: RunState, config: WindowConfig) -> str:
    """Count a comparison in the state, raise its share of 30 s windows where that is due, and return a warning or "".

    A warning is given for the first of several wide gaps in a row, and whenever the share is raised.
    """
    state.wide_gaps = state.wide_gaps + 1 if gap.is_wide else 0
    if not state.wide_gaps:
        return ""
    found = (
        f"step {state.step}: the loss of {gap.utterances} utterances is {gap.full:.3f} in 30 s windows and "
        f"{gap.borrowed:.3f} in short ones with borrowed silence"
    )
    share = current_full_share(state, config)
    if config.raise_full_share and state.wide_gaps >= RAISE_AFTER and share < MAX_FULL_SHARE:
        state.full_share = min(share + RAISE_BY, MAX_FULL_SHARE)
        state.wide_gaps = 0
        return f"{found}, for the second time in a row: from here on --full-share is {state.full_share:g}"
    if state.wide_gaps > 1:
        return ""
    if config.raise_full_share and share < MAX_FULL_SHARE:
        return f"{found}; if the next comparison is no better, --full-share is raised"
    return (
        f"{found}: if it stays so, and the WER does not fall, train with --full-share {_more_than(share):g}, or with "
        "--full-final 0.1 for 30 s windows at the end"
    )


def describe_too_little_memory(state: RunState, config: WindowConfig) -> str:
    """Return the warning that windows are not compared any more."""
    found = f"step {state.step}: too little memory to compare 30 s windows with short ones, which this process gives up"
    if config.raise_full_share:
        return f"{found}: --full-share stays {current_full_share(state, config):g}"
    return f"{found}; --watch-every 0 never compares them"


def current_full_share(state: RunState, config: WindowConfig) -> float:
    """Return the share of each step's utterances in 30 s windows: as configured, unless it was raised."""
    return config.full_share if state.full_share < 0 else state.full_share


def _more_than(share: float) -> float:
    return min(1.0, RAISE_BY * (math.floor(share / RAISE_BY) + 1))


@contextmanager
def _evaluating(network: SpeechLoss) -> Iterator[None]:
    """Switch dropout, SpecAugment and stochastic depth off for the time."""
    network.eval()
    try:
        yield
    finally:
        network.train()
