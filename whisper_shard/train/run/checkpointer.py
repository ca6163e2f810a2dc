"""Saves a live run as checkpoints, and restores it from them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from whisper_shard.errors import StateError
from whisper_shard.model.weights import load_weights, model_weights
from whisper_shard.stream.resume import PlanState, plan_state_from_json
from whisper_shard.train.ranks import barrier
from whisper_shard.train.run.checkpoint import Checkpoint, checkpoint_path, load_latest, save_checkpoint
from whisper_shard.train.run.context import RunContext
from whisper_shard.train.run.folder import library_versions
from whisper_shard.train.run.snapshot import (
    Trainable,
    capture_optimizer,
    capture_random,
    restore_optimizer,
    restore_random,
)
from whisper_shard.train.run.state import EpochLedger, RunState, run_state_from_json


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
    """Writes and reads the checkpoints of one run; rank 0 writes, all ranks read."""

    context: RunContext
    """Folder and ranks of the run."""
    trainable: Trainable
    """What is saved and restored."""
    base: str
    """Fingerprint of the weights that the run began with."""
    silence: str
    """Fingerprint of the silence source; empty: no silence is borrowed."""

    def save(self, state: RunState, plan: PlanState) -> Path:
        """Write a checkpoint and remove those no longer needed; all ranks must call it together.

        Kept are the last two checkpoints and the best weights that each of them names: if the newest turns out to be
        damaged, the run falls back to the other one, whose best step may be an earlier one.

        Raises:
            EnvironmentFault: The disk is full or cannot be written.
            TrainingError: Another rank is gone.
        """
        folder, ranks = self.context.folder.checkpoints, self.context.machine.ranks
        state.ledger.gather(ranks)
        best_steps = [state.best_step, state.saved_best_step]
        state.saved_best_step = state.best_step
        model, optimizer, average = self.trainable.model, self.trainable.optimizer, self.trainable.average
        random_tensors, random_numbers = capture_random()
        if ranks.is_first:
            save_checkpoint(
                folder,
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
        return checkpoint_path(folder, state.step)

    def save_snapshot(self, state: RunState, count: int) -> None:
        """Save the weights for averaging, and keep those of the last ``count`` evaluations."""
        state.evaluated_steps = [*state.evaluated_steps, state.step][-count:]
        if self.context.machine.ranks.is_first:
            tensors = {"model": model_weights(self.trainable.model)}
            save_checkpoint(
                self.context.folder.snapshots, step=state.step, tensors=tensors, state={}, keep=state.evaluated_steps
            )

    def restore(self, warn: Callable[[str], None]) -> Restored | None:
        """Restore model, optimizer, scaler and generators from the newest intact checkpoint; None if there is none.

        Args:
            warn: Called with a message for each damaged checkpoint that is passed over.

        Raises:
            StateError: The checkpoint is of another model, or all are damaged.
        """
        checkpoint = load_latest(self.context.folder.checkpoints, warn=warn)
        if checkpoint is None:
            return None
        try:
            restored = self._restore(checkpoint)
        except StateError as error:
            raise StateError(f"{checkpoint.folder}: {error}") from error
        barrier(self.context.machine.ranks)  # rank 0 must not remove what another rank is still reading
        return restored

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
