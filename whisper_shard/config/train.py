"""Settings of the command `train`, in groups that are sections of ``--help``; names of flags and TOML keys are flat."""

import math
from dataclasses import dataclass, field
from typing import Literal

from whisper_shard.config.checks import MANY, MAX_NEW_TOKENS, check_order, check_range
from whisper_shard.config.stream import StreamConfig
from whisper_shard.errors import ConfigError

AUTO_LR = 1e-5
"""Peak learning rate of ``lr`` auto. Source: https://huggingface.co/blog/fine-tune-whisper."""
AUTO_LR_LORA = 1e-3
"""The same for LoRA: rank 8, 24 steps on spoken digits take the loss from 2.1 to 0.01, and nowhere with 1e-5."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowConfig:
    """Which encoder windows the utterances of a step get."""

    window: Literal["auto", "full", "packed"] = "auto"
    """full: pad utterances to 30 s; auto: to the longest of similar ones; packed: pack several into 30 s (pack_by)."""
    beyond: Literal["silence", "nothing"] = "silence"
    """With window auto, what follows a short window: borrowed silence, to train for 30 s windows; or nothing."""
    full_share: float = 0.0
    """With window auto: share of each step's utterances that is padded to 30 s; with beyond nothing, try 0.125."""
    full_final: float = 0.0
    """With window auto: share of all steps, at the end, that uses 30 s windows only."""
    watch_every: int = 50
    """With borrowed silence: every N steps, compare the loss of 4 utterances in 30 s windows with short; 0: never."""
    raise_full_share: bool = False
    """Add 0.125 to full_share, up to 0.5, when two comparisons in a row show a loss too high in 30 s windows."""
    min_window_seconds: float = 1.0
    """With window auto: shortest window in seconds."""
    margin_seconds: tuple[float, float] = (0.2, 0.5)
    """With window auto: range of the random silence after the longest utterance of a window, in seconds."""
    max_padding: float = 0.25
    """With window auto: largest share of an utterance's window that may be padding, 0 to 1."""

    def __post_init__(self) -> None:
        """Validate."""
        check_range("--full-share", self.full_share, 0.0, 1.0)
        check_range("--full-final", self.full_final, 0.0, 1.0)
        check_range("--watch-every", self.watch_every, 0, MANY)
        if self.raise_full_share and not (self.borrows_silence and self.watch_every):
            raise ConfigError(
                f"--raise-full-share needs --window auto, --beyond silence and --watch-every above 0; they are "
                f"{self.window}, {self.beyond} and {self.watch_every}"
            )
        check_range("--min-window-seconds", self.min_window_seconds, 0.1, 30.0)
        check_order("--margin-seconds", self.margin_seconds)
        check_range("--max-padding", self.max_padding, 0.0, 1.0)

    @property
    def borrows_silence(self) -> bool:
        """Whether short windows attend to borrowed silence."""
        return self.window == "auto" and self.beyond == "silence"


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerConfig:
    """Length of training, learning rate and optimizer."""

    optimizer: Literal["adamw", "adamw-8bit"] = "adamw"
    """adamw-8bit: moments of 8 bits instead of 32, a quarter of their memory (needs the extra `8bit`)."""
    epochs: int = 5
    """Passes over the training set."""
    max_steps: int = 0
    """Optimizer steps, instead of epochs; 0: use epochs."""
    lr: Literal["auto"] | float = "auto"
    """Peak learning rate; auto: 1e-5, and 1e-3 with --lora-rank, whose adapters learn nothing at 1e-5."""
    warmup: float = 0.05
    """Share of all steps for linear learning-rate warm-up, 0 to 1."""
    min_lr_factor: float = 0.0
    """Share of lr at which the cosine schedule ends, 0 to 1."""
    weight_decay: float = 0.01
    """Weight decay of AdamW, 0 to 1; norms, biases and position embeddings are exempt."""
    max_grad_norm: float = 1.0
    """Clip gradients to this norm; 0: do not clip."""
    max_nonfinite: int = 5
    """Stop with an error after this many steps whose loss or gradient is not finite."""

    def __post_init__(self) -> None:
        """Validate."""
        check_range("--epochs", self.epochs, 1, MANY)
        check_range("--max-steps", self.max_steps, 0, MANY)
        if self.lr != "auto" and not 0.0 < self.lr < math.inf:
            raise ConfigError(f"--lr is {self.lr:g}; it must be above 0, and finite")
        check_range("--warmup", self.warmup, 0.0, 1.0)
        check_range("--min-lr-factor", self.min_lr_factor, 0.0, 1.0)
        check_range("--weight-decay", self.weight_decay, 0.0, 1.0)
        check_range("--max-grad-norm", self.max_grad_norm, 0.0, MANY)
        check_range("--max-nonfinite", self.max_nonfinite, 1, MANY)


@dataclass(frozen=True, slots=True, kw_only=True)
class RegularizationConfig:
    """What keeps the model from overfitting: random masks, smoothed labels, frozen layers, adapters."""

    spec_augment: bool = False
    """SpecAugment: mask bands of time and frequency, within the utterance."""
    dropout: float = 0.0
    """Dropout probability in encoder and decoder layers, 0 to 0.9."""
    stochastic_depth: float = 0.0
    """Probability that an utterance skips an encoder layer, 0 to 0.9."""
    label_smoothing: float = 0.0
    """Share of each label's probability that is spread over all tokens, 0 to 0.3."""
    freeze_encoder: bool = False
    """Train the decoder only."""
    freeze_layers: int = 0
    """Freeze this many layers of the encoder, from the first."""
    lora_rank: int = 0
    """Train only LoRA adapters of this rank (needs the extra `lora`); 0: train the weights themselves."""

    def __post_init__(self) -> None:
        """Validate."""
        check_range("--dropout", self.dropout, 0.0, 0.9)
        check_range("--stochastic-depth", self.stochastic_depth, 0.0, 0.9)
        check_range("--label-smoothing", self.label_smoothing, 0.0, 0.3)
        check_range("--freeze-layers", self.freeze_layers, 0, MANY)
        check_range("--lora-rank", self.lora_rank, 0, MANY)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationConfig:
    """When and how the model is evaluated, when training stops early, and which weights are kept."""

    eval_every: int = 0
    """Evaluate every N steps; 0: at the end of each epoch."""
    progress_every: int = 0
    """Also estimate the WER every N steps, in short windows with borrowed silence; decides nothing; 0: never."""
    eval_limit: int = 0
    """Evaluate on N utterances only, by a fixed shuffle; 0: all."""
    eval_batch: int = 32
    """Utterances per forward pass in evaluation."""
    max_new_tokens: int = 128
    """Longest hypothesis in tokens, 1 to 447; the number of hypotheses cut off there is reported."""
    patience: int = 3
    """Stop early after N evaluations without a better WER; 0: never."""
    average: int = 0
    """At the end, also score the mean of the last N evaluated weights, and keep it if better; 0: none."""
    ema: float = 0.0
    """At the end, also score a moving average of the weights with this decay per step, such as 0.999; 0: none."""
    interpolate: bool = False
    """At the end, also score interpolations with the base model, and keep the best."""

    def __post_init__(self) -> None:
        """Validate."""
        check_range("--eval-every", self.eval_every, 0, MANY)
        check_range("--progress-every", self.progress_every, 0, MANY)
        check_range("--eval-limit", self.eval_limit, 0, MANY)
        check_range("--eval-batch", self.eval_batch, 1, 1_000_000)
        check_range("--max-new-tokens", self.max_new_tokens, 1, MAX_NEW_TOKENS)
        check_range("--patience", self.patience, 0, MANY)
        check_range("--average", self.average, 0, MANY)
        check_range("--ema", self.ema, 0.0, 0.99999)


@dataclass(frozen=True, slots=True, kw_only=True)
class SavingConfig:
    """Checkpoints and metrics."""

    save_every: int = 0
    """Save a checkpoint every N steps; 0: at each evaluation."""
    save_minutes: float = 15.0
    """Save a checkpoint at least every N minutes; 0: at every step."""
    resume: bool = True
    """Resume from the last checkpoint in RUN, if there is one."""
    dry_run: bool = False
    """Print what the run would do, its memory by part and the hours it takes here (some steps are timed), and stop."""
    extend: bool = False
    """Go on with the run in RUN, finished or not, to the number of epochs or max_steps given now."""
    log_every: int = 10
    """Write training metrics every N steps."""
    tensorboard: bool = True
    """Also write the metrics to RUN/tensorboard."""
    tracker: Literal["none", "wandb", "mlflow", "trackio"] = "none"
    """Also send the metrics to Weights & Biases, MLflow or Trackio, if installed; its environment says where."""

    def __post_init__(self) -> None:
        """Validate."""
        check_range("--save-every", self.save_every, 0, MANY)
        check_range("--save-minutes", self.save_minutes, 0.0, MANY)
        check_range("--log-every", self.log_every, 1, 1_000_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputeConfig:
    """Speed and memory."""

    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Number format of matrix products; auto: bf16 on GPUs that have it, fp16 on older GPUs, fp32 on a CPU."""
    micro_batch: Literal["auto"] | int = "auto"
    """Utterances per forward pass; auto: all on a GPU, 32 or 240 s of windows on a CPU, halved if memory runs out."""
    gradient_checkpointing: bool = False
    """Recompute each layer in the backward pass: a third more work, much less memory."""
    shard: Literal["none", "states", "all"] = "none"
    """With several ranks, spread over them: states: optimizer states and gradients; all: the weights as well."""
    compile: bool = False
    """Compile the layers with torch.compile."""
    threads: int = 0
    """CPU threads for torch; 0: all cores."""

    def __post_init__(self) -> None:
        """Validate."""
        if self.micro_batch != "auto":
            check_range("--micro-batch", self.micro_batch, 1, MANY)
        check_range("--threads", self.threads, 0, 4096)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Fine-tune Whisper on a dataset."""

    model: str = "openai/whisper-small"
    """Model to start from: a folder, or a name on the model hub."""
    eval: str = ""
    """Evaluation dataset; empty: DATASET/eval, else eval beside DATASET."""
    also_eval: tuple[str, ...] = ()
    """Further evaluation datasets, scored at each evaluation too, such as general speech; they decide nothing."""
    language: str = ""
    """Language token where the data has no column `language` (a BCP-47 tag such as en); empty: en."""
    task: Literal["transcribe", "translate"] = "transcribe"
    """Task token where the data has no column `task`."""
    timestamps: float = 0.0
    """Share of utterances whose labels have timestamps, 0 to 1; the others get <|notimestamps|>."""
    prompts: float = 0.5
    """Share of utterances with a prompt, the text before them, that are trained with it, 0 to 1."""

    stream: StreamConfig = field(default_factory=StreamConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    window: WindowConfig = field(default_factory=WindowConfig)
    regularization: RegularizationConfig = field(default_factory=RegularizationConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    saving: SavingConfig = field(default_factory=SavingConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)

    def __post_init__(self) -> None:
        """Validate."""
        check_range("--timestamps", self.timestamps, 0.0, 1.0)
        check_range("--prompts", self.prompts, 0.0, 1.0)
        if self.evaluation.ema and self.regularization.lora_rank:
            raise ConfigError(
                f"--ema {self.evaluation.ema:g} with --lora-rank {self.regularization.lora_rank}: a moving average of "
                "the two factors of an update is not that of the update; use --average N, which averages merged weights"
            )

    @property
    def peak_lr(self) -> float:
        """The peak learning rate, a number also where ``lr`` is auto."""
        if self.optimizer.lr != "auto":
            return self.optimizer.lr
        return AUTO_LR_LORA if self.regularization.lora_rank else AUTO_LR
