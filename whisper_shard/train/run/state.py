"""Where a run stands: everything that is neither weight nor moment, small enough to be JSON in every checkpoint."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch

from whisper_shard.stream.batch import Batch
from whisper_shard.stream.delivery import MODULUS
from whisper_shard.stream.delivery import Ledger as DeliveryLedger
from whisper_shard.train.ranks import Ranks, sum_over_ranks


@dataclass(slots=True, kw_only=True)
class Window:
    """Sums over the steps since the last line of training metrics."""

    steps: int = 0
    """Steps whose numbers are in the sums."""
    loss: float = 0.0
    """Sum of token losses."""
    tokens: int = 0
    """Tokens in that sum."""
    norm: float = 0.0
    """Sum of gradient norms."""
    utterances: int = 0
    """Utterances learned from."""
    samples: int = 0
    """Their samples."""
    padded_samples: int = 0
    """Samples of their windows."""


@dataclass(slots=True, kw_only=True)
class Ledger(DeliveryLedger):
    """What has been delivered in the epoch in hand; rank 0 holds the sum, the others what they have not yet told."""

    samples: int = 0
    """Samples of what was delivered."""

    def add(self, batch: Batch) -> None:
        """Enter one batch of this rank."""
        DeliveryLedger.add(self, batch)  # by its name: super() does not work in a class with slots=True
        self.samples += int(batch.num_samples.numpy()[batch.weights.numpy() > 0].sum())

    def gather(self, ranks: Ranks) -> None:
        """Give what this rank has to rank 0; all ranks must call it together."""
        if ranks.world == 1:
            return
        names = [f.name for f in fields(self)]
        # Wrapped like the sums themselves: a digest is unsigned, an element of the tensor is not.
        signed = [(getattr(self, name) + MODULUS // 2) % MODULUS - MODULUS // 2 for name in names]
        totals = sum_over_ranks(torch.tensor(signed), ranks).tolist()
        for name, total in zip(names, totals, strict=True):
            setattr(self, name, total % MODULUS if ranks.is_first else 0)


@dataclass(slots=True, kw_only=True)
class RunState:
    """Counters of a run; they change at every step and are the same on all ranks, but for the ledger."""

    step: int = 0
    """Optimizer steps made: batches consumed."""
    updates: int = 0
    """Steps that changed the weights; the place in the schedule."""
    nonfinite: int = 0
    """Steps skipped because loss or gradient was not finite."""
    wer_before: float = -1.0
    """WER of the model before training, in 30 s windows; -1: not known yet."""
    best_wer: float = -1.0
    """Lowest WER so far; -1: none yet."""
    best_loss: float = 0.0
    """Loss of the same evaluation: of equal WERs the one with less loss is better."""
    best_step: int = 0
    """Step at which it was measured."""
    saved_best_step: int = 0
    """The ``best_step`` of the last checkpoint: who falls back to the one before it needs that one's best weights."""
    worse_evaluations: int = 0
    """Evaluations since then."""
    owes_evaluation: bool = False
    """Whether a signal came before what was to be evaluated at this step was over: a resumed run begins with it."""
    evaluated_steps: list[int] = field(default_factory=list)
    """Steps whose weights are kept for averaging."""
    window: Window = field(default_factory=Window)
    """Sums for the next line of metrics."""
    ledger: Ledger = field(default_factory=Ledger)
    """Deliveries of the epoch in hand."""

    def to_json(self) -> dict[str, Any]:
        """Return all of it as plain JSON values."""
        ledger = {name: str(value) for name, value in asdict(self.ledger).items()}  # more than a float of JSON can hold
        return {**asdict(self), "ledger": ledger}

    def judge(self, wer: float, loss: float) -> bool:
        """Take note of an evaluation; return whether it is the best so far, which needs a finite loss."""
        is_better = self.best_wer < 0 or (wer, loss) < (self.best_wer, self.best_loss)
        if is_better and math.isfinite(loss):
            self.best_wer, self.best_loss, self.best_step, self.worse_evaluations = wer, loss, self.step, 0
            return True
        self.worse_evaluations += 1
        return False


def run_state_from_json(value: Mapping[str, Any]) -> RunState:
    """Return a saved state; a field it does not have keeps its default."""
    known = {f.name: value[f.name] for f in fields(RunState) if f.name in value}
    ledger = {name: int(number) for name, number in value["ledger"].items()}
    return RunState(**{**known, "window": Window(**value["window"]), "ledger": Ledger(**ledger)})
