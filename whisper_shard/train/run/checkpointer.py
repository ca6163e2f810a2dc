"""The keeper: turns a live run into checkpoints and back."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from whisper_shard.errors import StateError
from whisper_shard.model.weights import capture_model, restore_model
from whisper_shard.stream.resume import PlanState, plan_state_from_json
from whisper_shard.train.ranks import wait_for_all
from whisper_shard.train.run.checkpoint import Checkpoint, load_latest, save_checkpoint
from whisper_shard.train.run.context import Machine
from whisper_shard.train.run.folder import RunFolder, library_versions
from whisper_shard.train.run.snapshot import capture_optimizer, capture_random, restore_optimizer, restore_random
from whisper_shard.train.run.state import Ledger, RunState, run_state_from_json
from whisper_shard.train.step import Stepper
from whisper_shard.train.windows import PassLimit


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """An earlier run, ready to go on."""

    state: RunState
    """Where it stands."""
    plan: PlanState
    """Where its stream goes on."""
    folder: Path
    """The checkpoint it came from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Keeper:
    """What of a live run goes into a checkpoint."""

    folder: RunFolder
    """Where checkpoints go."""
    stepper: Stepper
    """Network, optimizer and scaler."""
    machine: Machine
    """Rank 0 writes; all ranks read."""
    base: str
    """Fingerprint of the weights that the run began with."""

    def save(self, state: RunState, plan: PlanState) -> Path:
        """Write a checkpoint; keep the last two and what is best for either. All ranks must call it together.

        Raises:
            EnvironmentFault: The disk is full or cannot be written.
            TrainingError: Another rank is gone.
        """
        state.ledger.gather(self.machine.ranks)
        best_steps = [state.best_step, state.saved_best_step]
        state.saved_best_step = state.best_step
        model, optimizer = self.stepper.network.model, self.stepper.optimizer
        random_tensors, random_numbers = capture_random()
        if self.machine.ranks.is_first:
            save_checkpoint(
                self.folder.checkpoints,
                step=state.step,
                tensors={
                    "model": capture_model(model),
                    "optimizer": capture_optimizer(optimizer, model),
                    "random": random_tensors,
                    **({"average": self.stepper.average.weights} if self.stepper.average else {}),
                },
                state={
                    "base": self.base,
                    "run": state.to_json(),
                    "plan": plan.to_json(),
                    "random": random_numbers,
                    "scaler": self.stepper.scaler.state_dict(),
                    "pass_limit": self._limit_to_json(),
                    "versions": library_versions(),
                },
                keep=best_steps,
            )
        return self.folder.checkpoints / f"step-{state.step:08d}"

    def save_snapshot(self, state: RunState, count: int) -> None:
        """Keep the weights of the last ``count`` evaluations for averaging."""
        state.evaluated_steps = [*state.evaluated_steps, state.step][-count:]
        if self.machine.ranks.is_first:
            tensors = {"model": capture_model(self.stepper.network.model)}
            save_checkpoint(
                self.folder.snapshots, step=state.step, tensors=tensors, state={}, keep=state.evaluated_steps
            )

    def restore(self, warn: Callable[[str], None]) -> Restored | None:
        """Put the newest whole checkpoint into model, optimizer, scaler and generators; None if there is none.

        Args:
            warn: Told of damaged checkpoints that are passed over.

        Raises:
            StateError: The checkpoint is of another model, or all are damaged.
        """
        checkpoint = load_latest(self.folder.checkpoints, warn=warn)
        if checkpoint is None:
            return None
        try:
            restored = self._put_back(checkpoint)
        except StateError as error:
            raise StateError(f"{checkpoint.folder}: {error}") from error
        wait_for_all(self.machine.ranks)
        return restored

    def _put_back(self, checkpoint: Checkpoint) -> Restored:
        model, optimizer = self.stepper.network.model, self.stepper.optimizer
        restore_model(model, checkpoint.tensors["model"])
        if checkpoint.state["base"] != self.base:
            raise StateError(
                "the checkpoint is of another model: its run began with other weights of the same shape; "
                "use its own model or another run folder"
            )
        restore_optimizer(optimizer, model, checkpoint.tensors["optimizer"])
        if self.stepper.average is not None:
            self.stepper.average.restore(checkpoint.tensors["average"])
        restore_random(checkpoint.tensors["random"], checkpoint.state["random"])
        if self.stepper.scaler.is_enabled() and checkpoint.state["scaler"]:  # empty: of a run in bfloat16
            self.stepper.scaler.load_state_dict(dict(checkpoint.state["scaler"]))
        self._restore_limit(checkpoint.state["pass_limit"])
        state = run_state_from_json(checkpoint.state["run"])
        if not self.machine.ranks.is_first:
            state.ledger = Ledger()
        return Restored(state=state, plan=plan_state_from_json(checkpoint.state["plan"]), folder=checkpoint.folder)

    def _limit_to_json(self) -> dict[str, Any]:
        limit = self.stepper.limit
        seconds = limit.seconds if math.isfinite(limit.seconds) else None  # JSON has no infinity
        return {"device": self.machine.device.type, "utterances": limit.utterances, "seconds": seconds}

    def _restore_limit(self, saved: Mapping[str, Any]) -> None:
        """Go on with passes that are known to fit, unless their size was given or the device is of another kind."""
        if self.stepper.config.micro_batch != "auto" or saved.get("device") != self.machine.device.type:
            return
        seconds = math.inf if saved["seconds"] is None else float(saved["seconds"])
        self.stepper.limit = PassLimit(utterances=int(saved["utterances"]), seconds=seconds)


def make_scaler(machine: Machine) -> torch.amp.GradScaler:
    """Return a scaler of the loss, at work with float16 only."""
    return torch.amp.GradScaler(machine.device.type, enabled=machine.dtype == torch.float16)
