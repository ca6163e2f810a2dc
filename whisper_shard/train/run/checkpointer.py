"""Saves a live run as checkpoints, and restores it from them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whisper_shard.errors import StateError, TrainingError
from whisper_shard.model.weights import load_weights, model_weights, sample_parameters
from whisper_shard.stream.resume import PlanState, plan_state_from_json
from whisper_shard.train.events import Saved
from whisper_shard.train.ranks import Ranks, barrier, gather_rows, gather_texts
from whisper_shard.train.run.checkpoint import Checkpoint, Tensors, load_latest, save_checkpoint
from whisper_shard.train.run.context import RunContext
from whisper_shard.train.run.folder import library_versions
from whisper_shard.train.run.snapshot import (
    Trainable,
    capture_optimizer,
    capture_random,
    copy_own_tensors,
    restore_optimizer,
    restore_random,
)
from whisper_shard.train.run.state import EpochLedger, RunState, run_state_from_json
from whisper_shard.train.run.writer import CheckpointWriter


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """Where a restored run stands."""

    state: RunState
    """Its counters."""
    plan: PlanState
    """Where its data stream goes on."""
    folder: Path
    """The checkpoint it came from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpointer:
    """Writes and reads the checkpoints of one run; all ranks read, and rank 0 writes, with --shard all of them."""

    context: RunContext
    """Folder and ranks of the run."""
    trainable: Trainable
    """What is saved and restored."""
    base: str
    """Fingerprint of the weights that the run began with."""
    silence: str
    """Fingerprint of the silence source; empty: no silence is borrowed."""
    writer: CheckpointWriter = field(default_factory=CheckpointWriter)
    """Writes them."""

    def save(self, state: RunState, plan: PlanState) -> None:
        """Copy everything and begin to write a checkpoint of it; all ranks must call it together.

        When it is complete, those no longer needed are removed. Kept are the last two checkpoints and the best weights
        that each of them names: if the newest turns out to be damaged, the run falls back to the other one, whose best
        step may be an earlier one.

        Raises:
            EnvironmentFault: An earlier one could not be written.
            TrainingError: Another rank is gone, or has other weights.
        """
        self._check_same_weights(f"step {state.step}")
        state.ledger.gather(self.context.machine.ranks)
        best_steps = [state.best_step, state.saved_best_step]
        state.saved_best_step = state.best_step
        model, optimizer, average = self.trainable.model, self.trainable.optimizer, self.trainable.average
        random_tensors, random_numbers = capture_random()
        self._start_writing(
            self.context.folder.checkpoints,
            step=state.step,
            tensors={
                "model": model_weights(model),
                "optimizer": capture_optimizer(optimizer, model),
                "random": random_tensors,
                **({"average": average.weights} if average else {}),
            },
            state={
                "base": self.base,
                "silence": self.silence,
                "run": state.to_json(),
                "plan": plan.to_json(),
                "random": random_numbers,
                "scaler": self.trainable.scaler.state_dict(),
                "versions": library_versions(),
            },
            keep=best_steps,
        )

    def save_snapshot(self, state: RunState, count: int) -> None:
        """Save the weights for averaging, and keep those of the last ``count`` evaluations; none if it is below 2.

        Raises:
            EnvironmentFault: An earlier one could not be written.
            TrainingError: Another rank is gone.
        """
        if count < 2:
            return
        state.evaluated_steps = [*state.evaluated_steps, state.step][-count:]
        self._start_writing(
            self.context.folder.snapshots,
            step=state.step,
            tensors={"model": model_weights(self.trainable.model)},
            state={},
            keep=state.evaluated_steps,
        )

    def _start_writing(
        self,
        folder: Path,
        *,
        step: int,
        tensors: Mapping[str, Tensors],
        state: Mapping[str, Any],
        keep: Sequence[int],
    ) -> None:
        """Copy tensors and begin to write them, on every rank that has something to write."""
        ranks = self.context.machine.ranks
        if self.trainable.sharding is None:
            if not ranks.is_first:
                return
            ranks = Ranks()
        self.writer.make_room()
        copies = copy_own_tensors(tensors, ranks)
        # A group of its own: training exchanges other things meanwhile.
        ranks = replace(ranks, control=ranks.saving)
        is_snapshot = folder == self.context.folder.snapshots

        def write() -> Saved | None:
            path = save_checkpoint(folder, step=step, tensors=copies, state=state, keep=keep, ranks=ranks)
            return None if is_snapshot else Saved(step=step, folder=path)

        self.writer.start(write)

    def restore(self, warn: Callable[[str], None]) -> Restored | None:
        """Restore model, optimizer, scaler and generators from the newest checkpoint that is intact on all ranks.

        Returns:
            None if there is no checkpoint.

        Args:
            warn: Called with a message for each damaged checkpoint that is passed over.

        Raises:
            StateError: The checkpoint is of another model, or all are damaged.
            TrainingError: Ranks read different checkpoints of the same step, or another rank is gone.
        """
        checkpoint = load_agreed(self.context.folder.checkpoints, self.context.machine.ranks, warn=warn)
        if checkpoint is None:
            return None
        try:
            restored = self._restore(checkpoint)
        except StateError as error:
            raise StateError(f"{checkpoint.folder}: {error}") from error
        barrier(self.context.machine.ranks)  # rank 0 must not remove what another rank is still reading
        self._check_same_weights(str(checkpoint.folder))
        return restored

    def _check_same_weights(self, place: str) -> None:
        """Check that all ranks have the same weights, by some values of each parameter.

        Raises:
            TrainingError: One has others than rank 0, or is gone.
        """
        ranks = self.context.machine.ranks
        if ranks.world == 1 or self.trainable.sharding is not None:  # sharded weights are there once
            return
        own = sample_parameters(self.trainable.parameters).double().numpy()
        for rank, row in enumerate(gather_rows(own.view(np.int64)[:, None], ranks)):
            if _is_apart(own, row[:, 0].copy().view(np.float64)):
                raise TrainingError(
                    f"{place}: rank {rank} has other weights than rank {ranks.rank}: they no longer train one model; "
                    "put RUN on a filesystem that all ranks share, then run the same command again"
                )

    def _restore(self, checkpoint: Checkpoint) -> Restored:
        # Weights first: where shapes differ their message is clearer than that of the fingerprint, which only tells
        # apart models of the same shape.
        model, scaler = self.trainable.model, self.trainable.scaler
        load_weights(model, checkpoint.tensors["model"])
        if checkpoint.state["base"] != self.base:
            raise StateError(
                "the checkpoint is of another model: its run began with other weights of the same shape; "
                "use its own model or another run folder"
            )
        if (silence := checkpoint.state["silence"]) != self.silence:
            raise StateError(
                f"the run began with the silence after {silence or 'nothing'}, and now that after "
                f"{self.silence or 'nothing'} would be borrowed; restore its data, or choose another run folder"
            )
        restore_optimizer(self.trainable.optimizer, model, checkpoint.tensors["optimizer"])
        if self.trainable.average is not None:
            self.trainable.average.restore(checkpoint.tensors["average"])
        if scaler.is_enabled() and checkpoint.state["scaler"]:  # empty: the run was not in float16 then
            scaler.load_state_dict(dict(checkpoint.state["scaler"]))
        restore_random(checkpoint.tensors["random"], checkpoint.state["random"])
        state = run_state_from_json(checkpoint.state["run"])
        if not self.context.machine.ranks.is_first:
            state.ledger = EpochLedger()  # the saved one is the sum of all ranks, and rank 0 has it
        return Restored(state=state, plan=plan_state_from_json(checkpoint.state["plan"]), folder=checkpoint.folder)


def load_agreed(folder: Path, ranks: Ranks, *, warn: Callable[[str], None]) -> Checkpoint | None:
    """Read the newest checkpoint that is intact on all ranks; None if there is no checkpoint at all.

    Each rank reads the files itself, and one may find damaged what another one has read well.

    Args:
        folder: Folder of all checkpoints of a run.
        ranks: The processes that train together.
        warn: Called on every rank with a message for each checkpoint that some rank has passed over.

    Raises:
        StateError: On some rank all checkpoints are damaged, or there is none although another has one.
        TrainingError: Another rank is gone.
    """
    limit: int | None = None
    while True:
        faults: list[str] = []
        checkpoint = _load_or_note(folder, faults, not_after=limit)
        messages = list(dict.fromkeys(gather_texts(faults, ranks)))
        own = -1 if checkpoint is None else checkpoint.step
        steps = [int(row[0, 0]) for row in gather_rows(np.array([[own]]), ranks)]
        least, most = min(steps), max(steps)
        error = messages.pop() if most < 0 and messages else ""  # all are damaged: the last message says so
        for message in messages:
            warn(message)
        if error:
            raise StateError(error)
        if least == most:
            return checkpoint
        if least < 0:
            raise StateError(
                f"{folder}: rank {steps.index(least)} can read no checkpoint, rank {steps.index(most)} reads that of "
                f"step {most}; put RUN on a filesystem that all ranks share"
            )
        limit = least


def _load_or_note(folder: Path, faults: list[str], *, not_after: int | None) -> Checkpoint | None:
    """Read the newest intact checkpoint; note the error where all are damaged, for all ranks to know."""
    try:
        return load_latest(folder, warn=faults.append, not_after=not_after)
    except StateError as error:
        faults.append(str(error))
        return None


def _is_apart(own: NDArray[np.float64], other: NDArray[np.float64]) -> bool:
    """Return whether weights differ by more than rounding: ranks on unlike processors clip by norms a last bit apart.

    A single step of training changes them a hundred times as much.
    """
    return own.shape != other.shape or not np.allclose(own, other, rtol=2e-6, atol=1e-7, equal_nan=True)
