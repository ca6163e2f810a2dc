"""Where a run stands: everything that is neither weight nor moment, small enough to be JSON in every checkpoint."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
import torch

from whisper_shard.train.distributed import Ranks, sum_over_ranks

_MODULUS = 2**64


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
class Ledger:
    """What has been delivered in the epoch in hand; rank 0 holds the sum, the others what they have not yet told."""

    utterances: int = 0
    """Utterances learned from."""
    samples: int = 0
    """Their samples."""
    skipped: int = 0
    """Rows without an utterance."""
    digest: int = 0
    """Sum of the hashes of their numbers, modulo 2 ** 64."""

    def add(self, ids: Iterable[int], *, samples: int, empty_rows: int) -> None:
        """Enter one batch of this rank."""
        numbers = np.fromiter(ids, np.uint64)
        self.utterances += len(numbers)
        self.samples += samples
        self.skipped += empty_rows
        self.digest = (self.digest + digest_ids(numbers)) % _MODULUS

    def gather(self, ranks: Ranks) -> None:
        """Give what this rank has to rank 0; all ranks must call it together."""
        if ranks.world == 1:
            return
        signed = self.digest - _MODULUS if self.digest >= _MODULUS // 2 else self.digest
        total = sum_over_ranks(torch.tensor([self.utterances, self.samples, self.skipped, signed]), ranks).tolist()
        if not ranks.is_first:
            total = [0, 0, 0, 0]
        self.utterances, self.samples, self.skipped, self.digest = total[0], total[1], total[2], total[3] % _MODULUS


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
    """Whether a signal came before the evaluation due at this step was over: a resumed run begins with it."""
    evaluated_steps: list[int] = field(default_factory=list)
    """Steps whose weights are kept for averaging."""
    window: Window = field(default_factory=Window)
    """Sums for the next line of metrics."""
    ledger: Ledger = field(default_factory=Ledger)
    """Deliveries of the epoch in hand."""

    def to_json(self) -> dict[str, Any]:
        """Return all of it as plain JSON values."""
        return {**asdict(self), "ledger": {**asdict(self.ledger), "digest": str(self.ledger.digest)}}

    def judge(self, wer: float, loss: float) -> bool:
        """Take note of an evaluation; return whether it is the best so far."""
        if self.best_wer < 0 or (wer, loss) < (self.best_wer, self.best_loss):
            self.best_wer, self.best_loss, self.best_step, self.worse_evaluations = wer, loss, self.step, 0
            return True
        self.worse_evaluations += 1
        return False


def run_state_from_json(value: Mapping[str, Any]) -> RunState:
    """Return a saved state; a field it does not have keeps its default."""
    known = {f.name: value[f.name] for f in fields(RunState) if f.name in value}
    ledger = {**value["ledger"], "digest": int(value["ledger"]["digest"])}
    return RunState(**{**known, "window": Window(**value["window"]), "ledger": Ledger(**ledger)})


def digest_ids(ids: np.ndarray[Any, np.dtype[np.uint64]]) -> int:
    """Return the sum of the hashes of utterance numbers, modulo 2 ** 64; order does not matter, repetition does.

    Source: the finalizer of splitmix64, https://prng.di.unimi.it/splitmix64.c.
    """
    with np.errstate(over="ignore"):
        mixed = ids.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return int(np.sum(mixed ^ (mixed >> np.uint64(31)), dtype=np.uint64))
