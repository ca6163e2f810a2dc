"""Where a run stands: everything that is neither weight nor moment, small enough to be JSON in every checkpoint."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch

from whisper_shard.stream.batch import Batch
from whisper_shard.stream.delivery import MODULUS, Ledger
from whisper_shard.train.ranks import Ranks, sum_over_ranks


@dataclass(slots=True, kw_only=True)
class LogInterval:
    """Sums over the steps since the last line of training metrics."""

    steps: int = 0
    """Steps whose loss and norm are in the sums."""
    loss: float = 0.0
    """Sum of token losses."""
    tokens: int = 0
    """Tokens in that sum."""
    norm: float = 0.0
    """Sum of gradient norms."""
    utterances: int = 0
    """Utterances trained on."""
    samples: int = 0
    """Their samples."""
    padded_samples: int = 0
    """Samples of their windows."""


@dataclass(slots=True, kw_only=True)
class EpochLedger(Ledger):
    """Deliveries of the current epoch; rank 0 holds the sum, the others what they have not added to it yet."""

    samples: int = 0
    """Samples of the delivered utterances."""

    def add(self, batch: Batch) -> None:
        """Count one batch of this rank."""
        Ledger.add(self, batch)  # by its name: super() does not work in a class with slots=True
        self.samples += int(batch.num_samples.numpy()[batch.weights.numpy() > 0].sum())

    def gather(self, ranks: Ranks) -> None:
        """Move the counts of this rank to rank 0; all ranks must call it together."""
        if ranks.world == 1:
            return
        names = [f.name for f in fields(self)]
        # Digests are unsigned 64-bit numbers, elements of the tensor are signed: both wrap around at the same modulus.
        signed = [(getattr(self, name) + MODULUS // 2) % MODULUS - MODULUS // 2 for name in names]
        totals = sum_over_ranks(torch.tensor(signed), ranks).tolist()
        for name, total in zip(names, totals, strict=True):
            setattr(self, name, total % MODULUS if ranks.is_first else 0)


@dataclass(slots=True, kw_only=True)
class RunState:
    """Counters of a run, changed at every step; the same on all ranks, except for the ledger and the pass limit."""

    step: int = 0
    """Optimizer steps made, skipped ones included: batches consumed."""
    updates: int = 0
    """Steps that changed the weights; the position in the learning-rate schedule."""
    nonfinite: int = 0
    """Steps skipped because loss or gradient was not finite."""
    wer_before: float = -1.0
    """WER of the model before training, in 30 s windows; -1: not known yet."""
    also_before: Mapping[str, float] = field(default_factory=dict)
    """The same on further evaluation data, by name."""
    best_wer: float = -1.0
    """Lowest WER so far; -1: none yet."""
    best_loss: float = 0.0
    """Loss of the same evaluation: of equal WERs, the one with the lower loss is better."""
    best_step: int = 0
    """Step of that evaluation."""
    saved_best_step: int = 0
    """The ``best_step`` of the last checkpoint: a run that falls back to the one before it needs those best weights."""
    worse_evaluations: int = 0
    """Evaluations since the best one."""
    evaluation_pending: bool = False
    """Whether a signal interrupted the evaluation of this step; a resumed run repeats it first."""
    wide_gaps: int = 0
    """Comparisons in a row, the last one included, whose loss in 30 s windows was too high."""
    full_share: float = -1.0
    """Share of each step's utterances in 30 s windows, since it was raised; -1: as configured."""
    evaluated_steps: list[int] = field(default_factory=list)
    """Steps whose weights are kept for averaging."""
    log_interval: LogInterval = field(default_factory=LogInterval)
    """Sums for the next line of training metrics."""
    ledger: EpochLedger = field(default_factory=EpochLedger)
    """Deliveries of the current epoch."""
    pass_limit: Mapping[str, Any] | None = None
    """Size of a pass that fits into memory, as `TrainStep.describe_limit` gives it; None: not known yet."""

    def to_json(self) -> dict[str, Any]:
        """Return all of it as plain JSON values."""
        # As text: readers of JSON may take numbers for floats, which hold only 53 of a digest's 64 bits.
        ledger = {name: str(value) for name, value in asdict(self.ledger).items()}
        return {**asdict(self), "ledger": ledger}

    def record_evaluation(self, wer: float, loss: float) -> bool:
        """Count an evaluation; return whether it is the best so far, which needs a finite loss."""
        is_better = self.best_wer < 0 or (wer, loss) < (self.best_wer, self.best_loss)
        if is_better and math.isfinite(loss):
            self.best_wer, self.best_loss, self.best_step, self.worse_evaluations = wer, loss, self.step, 0
            return True
        self.worse_evaluations += 1
        return False


def run_state_from_json(value: Mapping[str, Any]) -> RunState:
    """Return a saved state; a field that it lacks keeps its default."""
    known = {f.name: value[f.name] for f in fields(RunState) if f.name in value}
    ledger = {name: int(number) for name, number in value["ledger"].items()}
    interval = LogInterval(**value["log_interval"])
    return RunState(**{**known, "log_interval": interval, "ledger": EpochLedger(**ledger)})
