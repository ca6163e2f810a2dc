"""One optimizer step: a batch becomes gradients, gradients become an update.

All passes of the step, on all ranks, add to one sum of token losses, divided once by the step's count of tokens. So
neither the size of a pass nor the number of ranks changes the update, but for the order of summation. Nothing in the
step waits for the device: whether it was finite is decided there, by a fused optimizer that skips an update on a flag.
"""

import gc
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from whisper_shard.config.train import TrainConfig
from whisper_shard.errors import TrainingError
from whisper_shard.keyed_random import draw_uniform, hash_key
from whisper_shard.model.averaging import MovingAverage
from whisper_shard.model.borrowed_silence import Silence
from whisper_shard.model.device import autocast, is_out_of_memory, send
from whisper_shard.model.forward import SpeechLoss
from whisper_shard.model.labels import Labeler, LabelRow
from whisper_shard.stream.batch import Batch
from whisper_shard.train.global_batch import NO_LABELS, Flags, Share
from whisper_shard.train.ranks import Ranks, gather_rows, sum_gradients, sum_over_ranks
from whisper_shard.train.windows import MicroBatch, PassLimit, assign_windows, cut_micro_batches
from whisper_shard.utterance import HOP_LENGTH


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a step; numbers stay on the device until `read`."""

    step: int
    """Its number, from 0."""
    lr: float
    """Learning rate of the update."""
    share: Share
    """What was learned from."""
    passes: Sequence[tuple[MicroBatch, Tensor]]
    """Each pass of this rank with its sum of token losses."""
    numbers: Tensor
    """(3,) mean token loss, norm of the gradient, 1 if the update was skipped; on the host once `ready`."""
    scaler: torch.amp.GradScaler
    """What scaled the gradient for float16, or did nothing."""
    ready: torch.cuda.Event | None
    """Tells when ``numbers`` have arrived; None: they have."""

    def read(self) -> tuple[float, float, bool]:
        """Return loss, gradient norm and whether the update was skipped, waiting if need be."""
        if self.ready is not None:
            self.ready.synchronize()
        loss, norm, skipped = self.numbers.tolist()
        return loss, norm, bool(skipped)

    def is_overflow(self) -> bool:
        """Tell whether a gradient that is not finite may come of scaling for float16 alone, which is normal.

        The scale falls at each overflow. Below 1 it makes gradients smaller than they are, so the fault is theirs.
        """
        return self.scaler.is_enabled() and self.scaler.get_scale() >= 1.0

    def faulty_keys(self) -> list[str]:
        """Return the utterances of this rank's passes whose loss is not finite."""
        return [
            self.share.batch.keys[row]
            for micro_batch, loss in self.passes
            if not bool(torch.isfinite(loss))
            for row in micro_batch.rows
        ]


class Stepper:
    """Makes optimizer steps with one network; remembers how much fits into a pass, and the average of the weights.

    Args:
        network: The module that gives loss sums.
        optimizer: A fused AdamW over its parameters.
        scaler: Enabled for float16.
        labeler: Makes labels of texts.
        config: The knobs.
        ranks: Who takes part.
        dtype: Format of matrix products.
        total_steps: Optimizer steps of the run.
        donor: (1, S) waveform; short windows hear the silence behind it. None: they hear nothing.
    """

    def __init__(
        self,
        network: SpeechLoss,
        optimizer: torch.optim.Optimizer,
        *,
        scaler: torch.amp.GradScaler,
        labeler: Labeler,
        config: TrainConfig,
        ranks: Ranks,
        dtype: torch.dtype,
        total_steps: int,
        donor: Tensor | None = None,
    ) -> None:
        self.network = network
        self.optimizer = optimizer
        self.scaler = scaler
        self.labeler = labeler
        self.config = config
        self.ranks = ranks
        self.dtype = dtype
        self.total_steps = total_steps
        self.parameters = [p for p in network.parameters() if p.requires_grad]
        self.device = self.parameters[0].device
        self.longest_window = 2 * network.model.config.max_source_positions * HOP_LENGTH
        self.limit = first_limit(config, self.device)
        self._donor = None if donor is None else send(donor, self.device)
        self._silence: Silence | None = None
        self.average = MovingAverage.of(network.model, config.ema) if config.ema else None

    def take(self, batch: Batch, *, step: int, lr: float, flags: Flags) -> Outcome:
        """Learn from one batch.

        Args:
            batch: This rank's part.
            step: Optimizer steps before this one.
            lr: Learning rate.
            flags: What this rank wants all to do afterwards.

        Raises:
            TrainingError: One utterance alone, or the optimizer, does not fit into memory; a text is too long; a rank
                is gone.
        """
        share = self._share(batch, step, flags)
        self._silence = self._listen(share)
        passes = self._accumulate(share, step)
        sum_gradients(self.parameters, self.ranks)
        loss_sum = sum((loss for _, loss in passes), torch.zeros((), device=self.device))
        loss = sum_over_ranks(loss_sum, self.ranks) / max(1, share.num_tokens)
        norm, skipped = self._update(loss, lr)
        if self.average is not None:
            self.average.update(step)
        numbers, ready = _send_to_host(torch.stack([loss, norm, skipped]))
        return Outcome(
            step=step,
            lr=lr,
            share=share,
            passes=passes,
            numbers=numbers,
            scaler=self.scaler,
            ready=ready,
        )

    def _share(self, batch: Batch, step: int, flags: Flags) -> Share:
        """Make labels, tell the other ranks what this one has, and give every row its window."""
        found = [self._label_or_drop(batch, row) for row in range(len(batch.keys))]
        labels = [row or NO_LABELS for row in found]
        dropped = [key for key, row in zip(batch.keys, found, strict=True) if row is None]
        counts = [len(row.labels) - _num_ignored(row) for row in labels]
        is_used = (batch.weights.numpy() > 0) & np.array([row is not None for row in found])
        lengths = np.where(is_used, np.maximum(batch.num_samples.numpy(), 1), 0)
        names = [zlib.crc32(key.encode()) for key in batch.keys]
        rows = np.stack([lengths, np.array(names, np.int64), np.array(counts, np.int64)], axis=1)
        parts = gather_rows(np.vstack([[flags.stop, int(flags.save), len(dropped)], rows]).astype(np.int64), self.ranks)
        heads = np.stack([part[0] for part in parts])
        everything = np.vstack([part[1:] for part in parts])
        windows = self._windows(everything, batch.epoch, step)
        first = sum(len(part) - 1 for part in parts[: self.ranks.rank])
        real = everything[everything[:, 0] > 0]
        return Share(
            batch=batch,
            labels=labels,
            windows=windows[first : first + len(rows)],
            num_tokens=int(real[:, 2].sum()),
            num_utterances=len(real),
            num_samples=int(real[:, 0].sum()),
            padded_samples=int(windows.sum()),
            flags=Flags(stop=int(heads[:, 0].max()), save=bool(heads[0, 1])),
            dropped=dropped,
            num_dropped=int(heads[:, 2].sum()),
        )

    def _windows(self, rows: NDArray[np.int64], epoch: int, step: int) -> NDArray[np.int64]:
        """Return the window of every row of all ranks, 0 for rows without weight; their order does not matter."""
        real = np.flatnonzero(rows[:, 0] > 0)
        order = real[np.lexsort((rows[real, 1], rows[real, 0]))]
        windows = np.zeros(len(rows), np.int64)
        windows[order] = assign_windows(
            rows[order, 0],
            config=self.config,
            epoch=epoch,
            step=step,
            total_steps=self.total_steps,
            longest_window=self.longest_window,
        )
        return windows

    def _label_or_drop(self, batch: Batch, row: int) -> LabelRow | None:
        """Return the labels of a row; None for a packed window that has more text than the decoder has room for.

        Which utterances share a window changes with each epoch, so this cannot be known before the run begins.

        Raises:
            TrainingError: The text of a single utterance is too long.
        """
        try:
            return self._label(batch, row)
        except TrainingError:
            if len(batch.segments[row]) < 2:
                raise
            return None

    def _label(self, batch: Batch, row: int) -> LabelRow:
        key = batch.keys[row]
        return self.labeler.label(
            batch.texts[row],
            key=key,
            language=batch.languages[row],
            task=batch.tasks[row],
            segments=batch.segments[row] if self._has_times(batch.epoch, key) else None,
            prompt=batch.prompts[row] if batch.prompts else None,
        )

    def _has_times(self, epoch: int, key: str) -> bool:
        if not self.config.timestamps:
            return False
        return float(draw_uniform(1, self.config.seed, "timestamps", epoch, key)[0]) < self.config.timestamps

    def _listen(self, share: Share) -> Silence | None:
        """Return the silence that short windows of this step hear, the same on all ranks."""
        if self._donor is None or share.windows.min() >= self.longest_window:
            return None
        with autocast(self.device, self.dtype):
            return self.network.listen(self._donor)

    def _accumulate(self, share: Share, step: int) -> list[tuple[MicroBatch, Tensor]]:
        """Sum gradients over the passes of this rank; begin again with smaller passes if memory runs out."""
        waveforms = send(share.batch.waveforms, self.device)
        while True:
            self.optimizer.zero_grad(set_to_none=True)
            passes: list[tuple[MicroBatch, Tensor]] = []
            for number, micro_batch in enumerate(cut_micro_batches(share.windows, limit=self.limit)):
                loss = self._try_pass(share, waveforms, micro_batch, (step, number))
                if loss is None:
                    self._shrink(micro_batch)
                    break
                passes.append((micro_batch, loss))
            else:
                return passes

    def _try_pass(
        self, share: Share, waveforms: Tensor, micro_batch: MicroBatch, number: tuple[int, int]
    ) -> Tensor | None:
        """Run one pass forward and backward; None if memory ran out."""
        try:
            return self._pass(share, waveforms, micro_batch, number)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return None

    def _pass(self, share: Share, waveforms: Tensor, micro_batch: MicroBatch, number: tuple[int, int]) -> Tensor:
        # Dropout follows from the seed and the place in the run, not from what was drawn before: so it resumes.
        torch.manual_seed(hash_key(self.config.seed, "dropout", self.ranks.rank, *number) % 2**63)
        rows = list(micro_batch.rows)
        batch = share.batch
        labels = self.labeler.collate([share.labels[row] for row in rows])
        seeds = [hash_key(self.config.seed, "spec augment", batch.epoch, batch.keys[r]) % 2**31 for r in rows]
        with autocast(self.device, self.dtype):
            loss_sum, _ = self.network(
                _to_window(waveforms, send(torch.tensor(rows), self.device), micro_batch.window_samples),
                send(labels.decoder_input_ids, self.device),
                send(labels.labels, self.device),
                send(batch.num_samples[rows], self.device),
                seeds=seeds,
                kept=send(labels.kept, self.device),
                silence=self._silence if micro_batch.window_samples < self.longest_window else None,
            )
        self.scaler.scale(loss_sum / share.num_tokens).backward()
        detached: Tensor = loss_sum.detach()
        return detached

    def _shrink(self, micro_batch: MicroBatch) -> None:
        """Halve what goes into a pass.

        Raises:
            TrainingError: It was a single utterance.
        """
        if len(micro_batch.rows) == 1:
            raise TrainingError(
                f"one utterance in a window of {micro_batch.window_seconds:g} s does not fit into the memory of "
                f"{self.device}; try --gradient-checkpointing, --window auto or a smaller model"
            )
        self.limit = self.limit.halved(rows=len(micro_batch.rows), window_samples=micro_batch.window_samples)
        gc.collect()  # runs without its collector: what the failed pass left in cycles would stay in memory
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _update(self, loss: Tensor, lr: float) -> tuple[Tensor, Tensor]:
        """Clip and update, unless something is not finite; return the norm and whether the update was skipped.

        Raises:
            TrainingError: The optimizer's state does not fit into memory.
        """
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        if not gradients:
            return torch.zeros_like(loss), torch.zeros_like(loss)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.scaler.scale(loss)  # a rank whose first step has no pass has not made a scale yet
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.get_total_norm(gradients)
        skipped = 1.0 - (torch.isfinite(norm) & torch.isfinite(loss)).float()
        if self.config.max_grad_norm > 0:
            nn.utils.clip_grads_with_norm_(self.parameters, self.config.max_grad_norm, norm)
        # The fused kernel skips the update on the device if this is 1: the door that GradScaler.step uses. That one
        # looks at gradients only; here an infinite loss counts as well.
        self.optimizer.grad_scale, self.optimizer.found_inf = None, skipped  # type: ignore[attr-defined]
        try:
            self.optimizer.step()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise TrainingError(
                f"the optimizer's moments, twice the size of what is trained, do not fit into the memory of "
                f"{self.device}; try --lora-rank 8, --freeze-encoder or a smaller model"
            ) from error
        self.scaler.update()
        return norm, skipped


def first_limit(config: TrainConfig, device: torch.device) -> PassLimit:
    """Return what the first pass may hold: as asked, else all there is on a GPU, and 4 GB of activations on a CPU.

    Each pass rounds all weights to bfloat16 anew and adds all gradients in float32: a few large passes cost less than
    many small ones.
    """
    if config.micro_batch != "auto":
        return PassLimit(utterances=config.micro_batch)
    if device.type == "cuda":
        return PassLimit(utterances=2**20)
    return PassLimit(utterances=32, seconds=240.0)


def _to_window(waveforms: Tensor, rows: Tensor, window_samples: int) -> Tensor:
    """Return rows of waveforms, cut or zero-padded to the window: audio is padded, never the spectrogram."""
    waveforms = waveforms[:, :window_samples].index_select(0, rows)
    return functional.pad(waveforms, (0, window_samples - waveforms.shape[1]))


def _num_ignored(row: LabelRow) -> int:
    return sum(label < 0 for label in row.labels)


def _send_to_host(numbers: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
    """Start copying a few numbers to the host and return at once; the event tells when they are there."""
    if numbers.device.type != "cuda":
        return numbers, None
    host = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
    host.copy_(numbers, non_blocking=True)
    ready = torch.cuda.Event()  # type: ignore[no-untyped-call]
    ready.record()
    return host, ready
