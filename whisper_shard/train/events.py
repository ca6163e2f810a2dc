"""Events of a training run, handed to a progress callback as they happen.

The loop never prints. A console, a test or a notebook passes ``progress`` and decides what to do with each event.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

FP16_OVERFLOW = "fp16 overflow"
"""A gradient did not fit into float16: the scale of the loss was a little too high."""
NO_UTTERANCE = "no utterance left"
"""All utterances of the step are damaged, or their texts too long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The run is set up, and training is about to begin or to resume."""

    total_steps: int
    """Optimizer steps of the whole run."""
    steps_per_epoch: int
    """Optimizer steps of one pass over the data."""
    train_utterances: int
    """Utterances in the training data."""
    eval_utterances: int
    """Utterances in the evaluation data."""
    num_parameters: int
    """Parameters that are trained."""
    device: str
    """Where torch computes."""
    precision: str
    """Format of matrix products: float32, bfloat16, float16."""
    ranks: int
    """Processes that train together."""
    lr: float
    """Peak learning rate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageChosen:
    """The language of the labels."""

    languages: tuple[str, ...]
    """Whisper's codes."""
    origin: str
    """Who has chosen them, in words."""
    heard: Mapping[str, int]
    """Evaluation utterances in which the model hears each language, the most frequent first; empty: not asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SilenceChosen:
    """The utterance whose trailing silence short windows borrow."""

    key: str
    """Its key."""
    dataset: str
    """Its dataset."""
    seconds: float
    """Its length, after cropping."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AlreadyOver:
    """The run was finished by an earlier call; nothing is computed."""

    run: str
    """The run folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed:
    """An interrupted run is resumed."""

    step: int
    """Steps made before."""
    folder: Path
    """The checkpoint it resumes from."""
    changes: tuple[str, ...]
    """Settings that differ from those the run began with, each in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stepped:
    """Some steps were made; all numbers are of the steps since the previous such event."""

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
    """Seconds of audio trained on per second, padding not counted, over all ranks."""
    padded_seconds_per_second: float
    """Seconds of windows trained on per second, over all ranks."""
    data_wait_share: float
    """Share of the time spent waiting for batches, 0 to 1."""
    reads: int
    """Reads of shards, or requests to object storage, by this rank."""
    mb_read: float
    """Megabytes (10^6) of these."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluating:
    """An evaluation is in progress."""

    num_done: int
    """Utterances scored so far, on all ranks."""
    num_utterances: int
    """Utterances to score."""
    window: str
    """full: 30 s windows; short: as long as the audio; borrowed: short, with borrowed silence behind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """The evaluation set was scored."""

    step: int
    """Steps made so far."""
    window: str
    """full: 30 s windows; short: as long as the audio; borrowed: short, with borrowed silence behind."""
    wer: float
    """Word error rate over the whole set, 0 to 1 and above."""
    cer: float
    """Character error rate over the whole set."""
    loss: float
    """Mean loss of a token."""
    cap_hits: int
    """Hypotheses that were cut off at the token limit."""
    is_best: bool
    """Whether no earlier evaluation of this run had a lower WER."""
    seconds: float
    """Time it took."""
    is_final: bool = False
    """Whether this is the score of the weights that the run ends with, which the report repeats."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """A checkpoint was written."""

    step: int
    """Steps made so far."""
    folder: Path
    """The checkpoint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    """An epoch is complete: the totals of its delivery ledger."""

    epoch: int
    """From 0."""
    utterances: int
    """Utterances trained on."""
    audio_seconds: float
    """Their total length."""
    skipped: int
    """Damaged utterances that were skipped; each is named in the log."""
    planned: int
    """Utterances that the plan of the epoch holds."""
    digest: str
    """Sum of the hashes of the utterances: equal for equal sets, in any order, on any number of ranks."""
    is_complete: bool
    """Whether each planned utterance was delivered exactly once, or skipped and named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """A step changed nothing: its loss or gradient was not finite, or all its utterances are damaged."""

    step: int
    """Number of the step, from 1."""
    keys: tuple[str, ...]
    """Utterances of the passes whose loss was not finite; the whole batch if only the gradient was not."""
    reason: str
    """loss, gradient, FP16_OVERFLOW (normal now and then) or NO_UTTERANCE."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Warned:
    """Something the user should know; the run goes on."""

    message: str
    """One line."""


Event = (
    AlreadyOver
    | Started
    | LanguageChosen
    | SilenceChosen
    | Resumed
    | Stepped
    | Evaluating
    | Evaluated
    | Saved
    | Delivered
    | Skipped
    | Warned
)
"""Any event of a run."""
Progress = Callable[[Event], None]
"""Called with each event as it happens, on rank 0 only."""


def ignore_event(_event: Event) -> None:
    """Do nothing: the default callback."""
