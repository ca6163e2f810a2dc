"""One optimizer step: a batch becomes gradients, gradients become an update.

All passes of the step, on all ranks, add to one sum of token losses, divided once by the step's count of tokens. So
neither the size of a pass nor the number of ranks changes the update, but for the order of summation. Nothing in the
step waits for the device: whether it was finite is decided there, by a fused optimizer that skips an update on a flag.
(With moments of 8 bits the host reads the flag.)
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from whisper_shard.config.train import ComputeConfig, TrainConfig
from whisper_shard.errors import TrainingError
from whisper_shard.keyed_random import hash_key
from whisper_shard.model.borrowed_silence import SilenceStates
from whisper_shard.model.device import autocast, free_memory, is_out_of_memory, send
from whisper_shard.model.sharded import whole_tensor
from whisper_shard.model.window import fit_window
from whisper_shard.stream.batch import Batch
from whisper_shard.train.global_batch import GlobalBatch, GlobalBatchBuilder, Requests
from whisper_shard.train.gradient_sums import GradientSums
from whisper_shard.train.ranks import explain_lost_rank, explain_lost_rank_in_pass, gather_rows, sum_over_ranks
from whisper_shard.train.run.context import Machine
from whisper_shard.train.run.snapshot import Trainable
from whisper_shard.train.sharding import ShardedGradients
from whisper_shard.train.windows import MicroBatch, PassLimit, cut_micro_batches


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """The numbers of one step; they stay on the device until `read`."""

    step: int
    """Its number, from 0."""
    global_batch: GlobalBatch
    """What was trained on."""
    passes: Sequence[tuple[MicroBatch, Tensor]]
    """Each pass of this rank with its sum of token losses."""
    numbers: Tensor
    """(3,) mean token loss, norm of the gradient, 1 if the update was skipped; on the host once `ready`."""
    scaler: torch.amp.GradScaler
    """Scales the loss for float16; disabled in other formats."""
    ready: torch.cuda.Event | None
    """Recorded after ``numbers`` have been copied to the host; None: they are there already."""

    def read(self) -> tuple[float, float, bool]:
        """Return loss, gradient norm and whether the update was skipped; wait for the device if necessary."""
        if self.ready is not None:
            self.ready.synchronize()
        loss, norm, skipped = self.numbers.tolist()
        return loss, norm, bool(skipped)

    def is_overflow(self) -> bool:
        """Return whether a gradient that is not finite may be due to scaling for float16 alone, which is normal.

        The scale falls at each overflow. Below 1 it makes gradients smaller than they are, so then they are at fault.
        """
        return self.scaler.is_enabled() and self.scaler.get_scale() >= 1.0

    def faulty_keys(self) -> list[str]:
        """Return the utterances of this rank's passes whose loss is not finite."""
        return [
            self.global_batch.local.keys[row]
            for micro_batch, loss in self.passes
            if not bool(torch.isfinite(loss))
            for row in micro_batch.rows
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class _StepInputs:
    """What all passes of a step have in common."""

    step: int
    global_batch: GlobalBatch
    waveforms: Tensor  # (B, S), on the device
    silence: SilenceStates | None


class TrainStep:
    """Makes optimizer steps: call it with a batch.

    Args:
        trainable: Network, optimizer, scaler and moving average, all changed in place.
        builder: Completes a batch to the global batch.
        config: The settings.
        machine: Device, precision and ranks.
        silence_source: (1, S) waveform; short windows attend to the silence behind it. None: to nothing.
    """

    def __init__(
        self,
        trainable: Trainable,
        builder: GlobalBatchBuilder,
        config: TrainConfig,
        machine: Machine,
        silence_source: Tensor | None = None,
    ) -> None:
        self.trainable = trainable
        self.builder = builder
        self.config = config
        self.machine = machine
        self.parameters = trainable.parameters
        self.gradients: GradientSums | ShardedGradients = (
            GradientSums(self.parameters, machine.ranks)
            if trainable.sharding is None
            else ShardedGradients(sharding=trainable.sharding, parameters=self.parameters)
        )
        self.limit = first_limit(config.compute, machine.device)
        self._last_skipped: Tensor | None = None  # 1 if the last step has changed nothing; on the device
        self._silence_source = None if silence_source is None else send(silence_source, machine.device)

    def __call__(
        self, batch: Batch, *, step: int, lr: float, lr_after_skip: float | None = None, requests: Requests
    ) -> StepResult:
        """Update the weights once; not at all where no rank has a usable row.

        Args:
            batch: This rank's rows.
            step: Optimizer steps before this one.
            lr: Learning rate.
            lr_after_skip: Learning rate instead if the last step has skipped its update, which only the device knows
                so far; None: the host knows, and ``lr`` is right.
            requests: What this rank wants all ranks to do afterwards.

        Raises:
            TrainingError: A single utterance or the optimizer's state does not fit into memory, a text is too long, or
                another rank is gone.
        """
        ranks, average = self.machine.ranks, self.trainable.average
        global_batch = self.builder.build(batch, step, requests)
        passes: list[tuple[MicroBatch, Tensor]] = []
        loss = norm = torch.zeros((), device=self.machine.device)
        skipped = torch.ones((), device=self.machine.device)
        if global_batch.num_tokens:
            passes = self._accumulate(global_batch, step)
            self.gradients.finish()
            loss_sum = sum((loss for _, loss in passes), torch.zeros((), device=self.machine.device))
            loss = sum_over_ranks(loss_sum, ranks) / global_batch.num_tokens
            norm, skipped = self._update(loss, self._choose_lr(lr, lr_after_skip))
        self._last_skipped = skipped
        if average is not None:
            average.update(step)
        numbers, ready = _send_to_host(torch.stack([loss, norm, skipped]))
        return StepResult(
            step=step,
            global_batch=global_batch,
            passes=passes,
            numbers=numbers,
            scaler=self.trainable.scaler,
            ready=ready,
        )

    def _choose_lr(self, lr: float, lr_after_skip: float | None) -> float | Tensor:
        """Return the learning rate; where it depends on a number that is still on the device, it stays there too."""
        if lr_after_skip is None or self._last_skipped is None:
            return lr
        return torch.where(self._last_skipped > 0, lr_after_skip, lr)

    def _accumulate(self, global_batch: GlobalBatch, step: int) -> list[tuple[MicroBatch, Tensor]]:
        """Sum gradients over the passes of this rank; start over with smaller passes if memory runs out."""
        inputs = _StepInputs(
            step=step,
            global_batch=global_batch,
            waveforms=send(global_batch.local.waveforms, self.machine.device),
            silence=self._encode_silence(global_batch),
        )
        while True:
            self.gradients.clear()
            passes: list[tuple[MicroBatch, Tensor]] = []
            micro_batches = self._cut_passes(global_batch)
            for number, micro_batch in enumerate(micro_batches):
                if number == len(micro_batches) - 1:
                    self.gradients.start_last_pass()
                if micro_batch is None:
                    self._run_empty_pass()
                    continue
                loss = self._try_pass(inputs, micro_batch, number)
                if loss is None:
                    self._shrink(micro_batch)
                    break
                passes.append((micro_batch, loss))
            else:
                return passes

    def _cut_passes(self, global_batch: GlobalBatch) -> list[MicroBatch | None]:
        """Return this rank's passes; with sharded weights the same number on all ranks, None: an empty one."""
        micro_batches = cut_micro_batches(global_batch.windows, limit=self.limit)
        if self.trainable.sharding is None:
            return [*micro_batches]
        most = max(int(row[0, 0]) for row in gather_rows(np.array([[len(micro_batches)]]), self.machine.ranks))
        return [*micro_batches, *[None] * (most - len(micro_batches))]

    def _run_empty_pass(self) -> None:
        """Take part in a pass of other ranks."""
        assert self.trainable.sharding is not None, "only sharded weights need every rank in every pass"
        with explain_lost_rank_in_pass(self.machine.ranks):
            with autocast(self.machine.device, self.machine.dtype):
                loss = self.trainable.sharding.run_empty_pass()
            self.trainable.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def _encode_silence(self, global_batch: GlobalBatch) -> SilenceStates | None:
        """Return the silence that short windows of this step attend to, the same on all ranks."""
        if self._silence_source is None or global_batch.shortest_window >= self.builder.longest_window:
            return None
        with explain_lost_rank_in_pass(self.machine.ranks), autocast(self.machine.device, self.machine.dtype):
            return self.trainable.network.encode_silence(self._silence_source)

    def _try_pass(self, inputs: _StepInputs, micro_batch: MicroBatch, number: int) -> Tensor | None:
        """Run one pass forward and backward; return its sum of token losses, None if memory ran out."""
        try:
            with explain_lost_rank_in_pass(self.machine.ranks):
                return self._run_pass(inputs, micro_batch, number)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return None  # the caller tries again only after the error, and the tensors its traceback holds, are gone

    def _run_pass(self, inputs: _StepInputs, micro_batch: MicroBatch, number: int) -> Tensor:
        # Dropout is drawn by place in the run, not from a generator that goes on from step to step: a resumed run draws
        # the same masks, and so does a step that starts over.
        seed, rank = self.config.stream.seed, self.machine.ranks.rank
        torch.manual_seed(hash_key(seed, "dropout", rank, inputs.step, number) % 2**63)
        global_batch, device, window = inputs.global_batch, self.machine.device, micro_batch.window_samples
        batch, rows = global_batch.local, list(micro_batch.rows)
        labels = self.builder.labeler.collate([global_batch.labels[row] for row in rows])
        seeds = [hash_key(seed, "spec augment", batch.epoch, batch.keys[r]) % 2**31 for r in rows]
        waveforms = inputs.waveforms[:, :window].index_select(0, send(torch.tensor(rows), device))
        with autocast(device, self.machine.dtype):
            loss_sum, _ = self.trainable.network(
                fit_window(waveforms, window),  # the audio is padded, never the spectrogram
                send(labels.decoder_input_ids, device),
                send(labels.labels, device),
                send(batch.num_samples[rows], device),
                seeds=seeds,
                kept=send(labels.kept, device),
                silence=inputs.silence if window < self.builder.longest_window else None,
            )
        # Divided by the tokens of all passes and ranks, not of this pass: gradients then only need to be summed.
        self.trainable.scaler.scale(loss_sum / global_batch.num_tokens).backward()
        detached: Tensor = loss_sum.detach()
        return detached

    def set_full_share(self, share: float) -> None:
        """Pad this share of each step's utterances to 30 s from now on; all ranks must call it together."""
        window = replace(self.builder.config.window, full_share=share)
        self.builder = replace(self.builder, config=replace(self.builder.config, window=window))

    def describe_limit(self) -> dict[str, Any]:
        """Return the size of a pass that fits, and the kind of device it fits on, as JSON values."""
        seconds = self.limit.seconds if math.isfinite(self.limit.seconds) else None  # JSON has no infinity
        return {"device": self.machine.device.type, "utterances": self.limit.utterances, "seconds": seconds}

    def restore_limit(self, saved: Mapping[str, Any] | None) -> None:
        """Begin with passes that are known to fit, unless their size is configured or the device is of another kind."""
        is_configured = self.config.compute.micro_batch != "auto"
        if saved is None or is_configured or saved["device"] != self.machine.device.type:
            return
        seconds = math.inf if saved["seconds"] is None else float(saved["seconds"])
        self.limit = PassLimit(utterances=int(saved["utterances"]), seconds=seconds)

    def _shrink(self, micro_batch: MicroBatch) -> None:
        """Halve the size of a pass, for this step and all that follow.

        Raises:
            TrainingError: The pass was a single utterance, or other ranks wait in the middle of it.
        """
        num_rows = len(micro_batch.rows)
        if num_rows > 1 and self.trainable.sharding is not None:
            raise TrainingError(
                f"{num_rows} utterances in windows of {micro_batch.window_seconds:g} s do not fit into the memory of "
                f"{self.machine.device}, and with --shard passes cannot be halved on the way; run the same command "
                f"again with --micro-batch {num_rows // 2}"
            )
        if num_rows == 1:
            raise TrainingError(
                f"one utterance in a window of {micro_batch.window_seconds:g} s does not fit into the memory of "
                f"{self.machine.device}; try --gradient-checkpointing, --window auto or a smaller model"
            )
        self.limit = self.limit.halved(rows=num_rows, window_samples=micro_batch.window_samples)
        free_memory(self.machine.device)

    def _update(self, loss: Tensor, lr: float | Tensor) -> tuple[Tensor, Tensor]:
        """Clip and update, unless something is not finite; return the norm and whether the update was skipped.

        Raises:
            TrainingError: The optimizer's state does not fit into memory.
        """
        optimizer, scaler = self.trainable.optimizer, self.trainable.scaler
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        for group in optimizer.param_groups:
            group["lr"] = lr
        scaler.scale(loss)  # makes the scale, which a rank that had no pass in the first step has not done yet
        scaler.unscale_(optimizer)
        with explain_lost_rank(self.machine.ranks):
            norm = whole_tensor(nn.utils.get_total_norm(gradients))
        skipped = 1.0 - (torch.isfinite(norm) & torch.isfinite(loss)).float()
        if (max_norm := self.config.optimizer.max_grad_norm) > 0:
            nn.utils.clip_grads_with_norm_(self.parameters, max_norm, norm)
        # Where found_inf is 1, the fused kernel leaves weights and moments as they are, and the host never has to ask.
        # GradScaler.step sets it too, but looks at gradients only; here a loss that is not finite counts as well. The
        # gradients are unscaled already: there is no grad_scale.
        optimizer.grad_scale, optimizer.found_inf = None, skipped  # type: ignore[attr-defined]
        try:
            optimizer.step()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise TrainingError(
                f"the optimizer's moments do not fit into the memory of {self.machine.device}; try "
                "--optimizer adamw-8bit, --lora-rank 8, --freeze-encoder or a smaller model"
            ) from error
        scaler.update()
        return norm, skipped


def first_limit(config: ComputeConfig, device: torch.device) -> PassLimit:
    """Return the size of the first pass: as configured, else everything on a GPU, and 4 GB of activations on a CPU.

    Each pass rounds all weights to bfloat16 anew and adds all gradients in float32: a few large passes cost less than
    many small ones.
    """
    if config.micro_batch != "auto":
        return PassLimit(utterances=config.micro_batch)
    if device.type == "cuda":
        return PassLimit(utterances=2**20)
    return PassLimit(utterances=32, seconds=240.0)


def _send_to_host(numbers: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
    """Start copying a few numbers to the host and return at once; the event is recorded behind the copy."""
    if numbers.device.type != "cuda":
        return numbers, None
    host = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
    host.copy_(numbers, non_blocking=True)
    ready = torch.cuda.Event()  # type: ignore[no-untyped-call]
    ready.record()
    return host, ready
