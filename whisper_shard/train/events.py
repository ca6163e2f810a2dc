"""What a training run tells the outside while it goes: small frozen facts, handed to a callback.

The loop never prints. A console, a test or a notebook passes ``progress`` and does with each event what it likes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The run is set up and about to begin or go on."""

    total_steps: int
    """Optimizer steps of the whole run."""
    steps_per_epoch: int
    """Optimizer steps of one pass over the data."""
    train_utterances: int
    """Utterances to learn from."""
    eval_utterances: int
    """Utterances to evaluate on."""
    num_parameters: int
    """Parameters that are trained."""
    device: str
    """Where torch computes."""
    precision: str
    """Format of matrix products: float32, bfloat16, float16."""
    ranks: int
    """Processes that train together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AlreadyOver:
    """The run had come to its end before; nothing is computed."""

    run: Path
    """The run folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed:
    """An earlier run goes on."""

    step: int
    """Steps already made."""
    folder: Path
    """The checkpoint it goes on from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stepped:
    """Some steps were made; all numbers are of the steps since the event before."""

    step: int
    """Steps made so far."""
    total_steps: int
    """Steps of the whole run."""
    epoch: float
    """Passes over the data made so far."""
    loss: float
    """Mean loss of a token."""
    lr: float
    """Learning rate of the last of these steps."""
    grad_norm: float
    """Mean norm of the gradient before clipping."""
    utterances_per_second: float
    """Speed of training, over all ranks."""
    audio_seconds_per_second: float
    """Speech trained on per second, padding not counted, over all ranks."""
    padded_seconds_per_second: float
    """Windows trained on per second, over all ranks."""
    data_wait_share: float
    """Share of the time spent waiting for batches, 0 to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluating:
    """An evaluation is under way."""

    num_done: int
    """Utterances scored so far, on all ranks."""
    num_utterances: int
    """Utterances to score."""
    window: str
    """full: in 30 s windows; short: as long as the audio; borrowed: short, with borrowed silence behind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """The evaluation set was scored."""

    step: int
    """Steps made so far."""
    window: str
    """full: in 30 s windows; short: as long as the audio; borrowed: short, with borrowed silence behind."""
    wer: float
    """Word error rate over the whole set, 0 to 1 and above."""
    cer: float
    """Character error rate over the whole set."""
    loss: float
    """Mean loss of a token."""
    cap_hits: int
    """Hypotheses that were cut off at the longest length."""
    is_best: bool
    """Whether no earlier evaluation of this run had a lower WER."""
    seconds: float
    """Time it took."""
    is_final: bool = False
    """Whether these are the weights that the run kept; the report says the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """A checkpoint is on the disk."""

    step: int
    """Steps made so far."""
    folder: Path
    """Where it lies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    """What has been learned from in one epoch: the ledger of deliveries."""

    epoch: int
    """From 0."""
    utterances: int
    """Utterances learned from."""
    audio_seconds: float
    """Their length."""
    skipped: int
    """Damaged utterances that were skipped; each is named in the log."""
    planned: int
    """Utterances that the epoch should deliver."""
    digest: str
    """Sum of the hashes of the delivered: equal for equal sets of utterances, in any order, on any number of ranks."""
    is_complete: bool
    """Whether each planned utterance was delivered exactly once, or skipped and named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """A step that changed nothing, since its loss or gradient was not finite."""

    step: int
    """Number of the step, from 1."""
    keys: tuple[str, ...]
    """Utterances in the passes that were not finite; the whole batch where only the sum overflowed."""
    reason: str
    """loss, gradient, or fp16 overflow (which is normal now and then)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Warned:
    """Something a user should know that does not stop the run."""

    message: str
    """One line."""


Event = AlreadyOver | Started | Resumed | Stepped | Evaluating | Evaluated | Saved | Delivered | Skipped | Warned
"""All there are."""
Progress = Callable[[Event], None]
"""Receives each event as it happens, on rank 0 only."""


def ignore_event(_event: Event) -> None:
    """Do nothing: the default progress."""
