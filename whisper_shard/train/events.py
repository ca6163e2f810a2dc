"""Events of a training run, handed to a progress callback as they happen.

The loop never prints. A console, a test or a notebook passes ``progress`` and decides what to do with each event.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from whisper_shard.utterance import SAMPLE_RATE

FP16_OVERFLOW = "fp16 overflow"
"""A gradient did not fit into float16: the scale of the loss was a little too high."""
NO_UTTERANCE = "no utterance left"
"""All utterances of the step are damaged, or their texts too long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PassShape:
    """Size of one pass through the model."""

    rows: int
    """Utterances."""
    window_samples: int
    """Samples in the window of each."""
    tokens: int
    """Tokens that the decoder reads of each."""

    @property
    def window_seconds(self) -> float:
        """Length of the window in seconds."""
        return self.window_samples / SAMPLE_RATE


@dataclass(frozen=True, slots=True, kw_only=True)
class StepMemory:
    """Bytes on the device of one rank; the sum is what a step with several passes needs, and one with a single pass
    needs no more.
    """

    weights: int
    """Parameters and buffers, in float32."""
    gradients: int
    """Gradients of what is trained."""
    optimizer: int
    """Moments of AdamW, after the first step."""
    average: int
    """The moving average of the weights (--ema)."""
    activations: int
    """What a pass keeps for its backward pass, and needs beside it at the worst moment; with weights rounded to bf16 or
    fp16, which are kept too.
    """

    @property
    def total(self) -> int:
        """All parts together."""
        return sum(asdict(self).values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What a run is going to compute, found from the lengths in the index."""

    num_parameters: int
    """All parameters, adapters included."""
    num_trained: int
    """Those that are trained."""
    utterances: float
    """Utterances (of packed data: windows) of a step on all ranks, on average."""
    audio_seconds: float
    """Seconds of audio of a step on all ranks, on average."""
    window_seconds: float
    """Seconds of the windows of a step on all ranks, on average."""
    windows: tuple[float, float]
    """Shortest and longest window in seconds."""
    passes: tuple[int, int]
    """Least and most passes of a step through the model, on a rank."""
    largest: PassShape
    """The largest pass."""
    memory: StepMemory
    """What a step with this pass needs."""
    device_bytes: int
    """Memory of the device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparing:
    """Something that takes a while has begun, before the first step."""

    what: str
    """In words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The run is set up, and training is about to begin or to resume."""

    total_steps: int
    """Optimizer steps of the whole run."""
    steps_per_epoch: int
    """Optimizer steps of one pass over the data."""
    train_utterances: int
    """Utterances in the training data."""
    silent_utterances: int
    """Those of them without a text, in which nothing is said."""
    eval_utterances: int
    """Utterances in the evaluation data."""
    forecast: Forecast
    """What the run is going to compute."""
    device: str
    """Where torch computes."""
    precision: str
    """Format of matrix products: float32, bfloat16, float16."""
    ranks: int
    """Processes that train together."""
    shard: str
    """What is spread over them: none, states or all."""
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
class Advanced:
    """A step was made."""

    step: int
    """Steps made so far."""
    total_steps: int
    """Steps of the whole run."""
    remaining_seconds: float | None
    """Time until the end, evaluations included, if the run does not stop early; None: not known yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimated:
    """It is known how long the run will take; reported once, as soon as some steps were made."""

    remaining_seconds: float
    """Time until the end, evaluations included, if the run does not stop early."""
    steps: int
    """Steps to come."""
    step_seconds: float
    """Mean time of a step."""
    evaluations: int
    """Evaluations to come, the two at the end included."""
    evaluation_seconds: float
    """Time of one in 30 s windows; 0: not known, and not included."""


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
    dataset: str = ""
    """Name of further evaluation data; empty: those that decide."""
    num_silent: int = 0
    """Utterances in which nothing is said."""
    num_invented: int = 0
    """Hypotheses with words for them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GapMeasured:
    """A few utterances of a step were computed in 30 s windows and in short ones, with the same weights."""

    step: int
    """Steps made so far."""
    utterances: int
    """Utterances compared."""
    loss_full: float
    """Their mean loss of a token in 30 s windows."""
    loss_borrowed: float
    """The same in their short windows, with borrowed silence behind."""
    gap: float
    """``loss_full - loss_borrowed``."""
    full_share: float
    """Share of each step's utterances that is padded to 30 s from here on."""


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
    | Preparing
    | Started
    | LanguageChosen
    | SilenceChosen
    | Resumed
    | Advanced
    | Estimated
    | Stepped
    | Evaluating
    | Evaluated
    | GapMeasured
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
