"""Every knob: one frozen dataclass per command, with the unit in the docstring under each field.

A TOML file and flags set them: see flags.py. Lists of steps (``[[prepare.filters]]``, ``[[train.augment]]``) exist in
TOML only; each step has a ``kind`` and its parameters.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from whisper_shard.errors import ConfigError

Steps = tuple[Mapping[str, Any], ...]
"""A list of ``{kind = ..., parameter = ...}`` tables."""

GUIDE_AUGMENT: Steps = (
    {"kind": "AddGaussianNoise", "min_amplitude": 0.0005, "max_amplitude": 0.003, "p": 0.2},
    {"kind": "Gain", "min_gain_db": -2.0, "max_gain_db": 2.0, "p": 0.2},
)
"""What the popular fine-tuning guide does to training audio."""

_MANY = 1_000_000_000  # more than any run needs
_MAX_NEW_TOKENS = 447  # Whisper's decoder has 448 positions, and at least one token goes before the text


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareConfig:
    """Turn a corpus into tar shards, a Parquet index and a report."""

    # -- the corpus
    audio_column: str = ""
    """Column of audio paths; empty: the first of audios, audio, path, file, wav, audio_filepath that exists."""
    text_column: str = ""
    """Column of transcripts; empty: the first of transcription, text, sentence, transcript that exists."""
    eval_corpus: str = ""
    """A second manifest to use as the evaluation set; empty: split it off the corpus."""
    eval_fraction: float = 0.1
    """Share of the corpus set aside for evaluation, 0 to 0.9; 0: no evaluation set."""
    seed: int = 42
    """Seed of the split and of the order of utterances in the shards."""

    # -- the waveform
    trim_db: float = 30.0
    """Trim both ends where they are this many dB below the loudest frame; 0: do not trim."""
    peak: float = 1.0
    """Largest absolute sample after peak normalization, 0 to 1; 0: keep the level."""

    # -- the text and the filters
    text_style: Literal["lowercase", "written", "verbatim"] = "lowercase"
    """lowercase: letters and digits only, as the guide; written: clean spaces and Unicode; verbatim: no change."""
    min_seconds: float = 1.0
    """Reject utterances of this many seconds or less, after trimming."""
    max_seconds: float = 30.0
    """Reject utterances of this many seconds or more, after trimming; at most 30, Whisper's window."""
    min_text_chars: int = 6
    """Reject utterances with fewer characters of normalized text than this."""
    max_recording_seconds: float = 600.0
    """Reject recordings longer than this many seconds before trimming, without decoding them to the end."""
    filters: Steps = ()
    """Further filters, TOML only: [[prepare.filters]] kind = "speaking_rate" ..."""
    decoders: Steps = ()
    """Further decoders, tried before the built-in ones, TOML only: [[prepare.decoders]] kind = "pkg.mod:Class"."""

    # -- the output
    codec: Literal["npy", "flac"] = "npy"
    """npy: int16 arrays, fastest to read; flac: half the bytes, lossless, slower to read."""
    shard_mb: int = 256
    """Target size of a shard in MB (10^6 bytes)."""

    # -- the run
    jobs: int = 0
    """Worker processes; 0: one per core."""
    decode_timeout_seconds: float = 120.0
    """Reject a recording whose decoding takes longer than this many seconds."""
    worker_memory_mb: int = 4096
    """Reject a recording whose decoding needs more memory than this many MB."""
    max_reject_fraction: float = 0.5
    """End with an error if more than this share of all rows is rejected, 0 to 1."""
    rebuild: bool = False
    """If OUT was made with another configuration or manifest, prepare it again instead of refusing it."""
    dry_run: bool = False
    """Print the plan, test the first 50 recordings, write nothing."""

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        _check_range("--eval-fraction", self.eval_fraction, 0.0, 0.9)
        _check_range("--peak", self.peak, 0.0, 1.0)
        _check_range("--max-reject-fraction", self.max_reject_fraction, 0.0, 1.0)
        _check_range("--trim-db", self.trim_db, 0.0, 120.0)
        _check_range("--shard-mb", self.shard_mb, 1, 100_000)
        _check_range("--seed", self.seed, 0, 2**63)
        _check_range("--min-text-chars", self.min_text_chars, 0, 100_000)
        _check_range("--max-recording-seconds", self.max_recording_seconds, self.max_seconds, 86_400)
        _check_range("--decode-timeout-seconds", self.decode_timeout_seconds, 0.01, 86_400)
        _check_range("--worker-memory-mb", self.worker_memory_mb, 1_000, 1_000_000)
        _check_range("--jobs", self.jobs, 0, 4096)
        if not 0.0 <= self.min_seconds < self.max_seconds <= 30.0:
            raise ConfigError(
                f"--min-seconds {self.min_seconds:g} and --max-seconds {self.max_seconds:g}: need "
                "0 <= min < max <= 30, the window of Whisper"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamConfig:
    """How a dataset becomes batches; shared by train and bench."""

    batch_size: int = 64
    """Utterances per optimizer step, over all ranks."""
    batch_seconds: float = 0.0
    """Padded seconds per optimizer step, instead of batch_size; 0: use batch_size."""
    length_buckets: int = 32
    """Buckets of similar length that batches are drawn from, 1 to 256; more: less padding; 1: random lengths."""
    mix: tuple[str, ...] = ()
    """Further datasets to mix with DATASET, each a prepared folder such as more/train."""
    weights: tuple[float, ...] = ()
    """With mix: passes per epoch over DATASET and each of mix; 0.5: half of it per epoch; empty: 1 each."""
    pack_by: Literal["", "speaker", "source"] = ""
    """Pack short utterances of one speaker, or of one recording, into windows of up to 30 s; empty: do not pack."""
    pack_gap_seconds: tuple[float, float] = (0.1, 0.5)
    """Range of the random pause between packed utterances, in seconds."""
    workers: int = 2
    """Loader processes; 0: read in the training process."""
    prefetch: int = 2
    """Batches that each loader process keeps ready."""
    bad_record: Literal["raise", "skip"] = "raise"
    """At a damaged utterance: stop with an error, or log it and keep its row with weight 0."""
    max_bad: int = 100
    """With bad_record skip: stop with an error after more than this many."""
    seed: int = 42
    """Seed of order, augmentation and initial weights."""
    augment: Steps = GUIDE_AUGMENT
    """Augmentations of the training audio, TOML only; []: none."""
    sample_format: Literal["float32", "int16"] = "float32"
    """Samples of a batch: float32 in [-1, 1]; or int16, half the bytes between processes and to the GPU."""

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        _check_range("--batch-size", self.batch_size, 1, 1_000_000)
        _check_range("--batch-seconds", self.batch_seconds, 0.0, 1e7)
        _check_range("--length-buckets", self.length_buckets, 1, 256)
        _check_range("--workers", self.workers, 0, 1024)
        _check_range("--prefetch", self.prefetch, 1, 1000)
        _check_range("--max-bad", self.max_bad, 0, _MANY)
        _check_order("--pack-gap-seconds", self.pack_gap_seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchConfig(StreamConfig):
    """Measure loader throughput, stage by stage.

    workers is not used here: loaders with 0, 1, 2, ... max_workers processes are tried.
    """

    out: str = ""
    """Folder for bench.json and bench.html; empty: the dataset's own."""
    seconds: float = 4.0
    """Measuring time per setting, in seconds."""
    max_workers: int = -1
    """Try 0, 1, 2, ... up to this many loader processes; -1: the number of cores."""
    step_ms: float = 0.0
    """Time of one training step in milliseconds, to compute the loader's headroom; 0: unknown."""
    model: str = ""
    """Model folder whose training step is measured, instead of giving step_ms."""

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        StreamConfig.__post_init__(self)  # by its name: super() does not work in a class with slots=True
        _check_range("--max-workers", self.max_workers, -1, 1024)
        _check_range("--step-ms", self.step_ms, 0.0, 1e7)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig(StreamConfig):
    """Fine-tune Whisper on a dataset."""

    model: str = "openai/whisper-small"
    """Model to start from: a folder, or a name on the model hub."""
    eval: str = ""
    """Evaluation dataset; empty: DATASET/eval, else eval beside DATASET."""
    language: str = ""
    """Language token where the data has no column `language` (a BCP-47 tag such as en); empty: en."""
    task: Literal["transcribe", "translate"] = "transcribe"
    """Task token where the data has no column `task`."""

    # -- optimization
    epochs: int = 5
    """Passes over the training set."""
    max_steps: int = 0
    """Optimizer steps, instead of epochs; 0: use epochs."""
    lr: float = 1e-5
    """Peak learning rate."""
    warmup: float = 0.05
    """Share of all steps for linear learning-rate warm-up, 0 to 1."""
    min_lr_factor: float = 0.0
    """Share of lr at which the cosine schedule ends, 0 to 1."""
    weight_decay: float = 0.01
    """Weight decay of AdamW; norms, biases and position embeddings are exempt."""
    max_grad_norm: float = 1.0
    """Clip gradients to this norm; 0: do not clip."""
    label_smoothing: float = 0.0
    """Share of each label's probability that is spread over all tokens, 0 to 0.3."""
    micro_batch: Literal["auto"] | int = "auto"
    """Utterances per forward pass; auto: all on a GPU, 32 or 240 s of windows on a CPU, halved if memory runs out."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Number format of matrix products; auto: bf16 on GPUs that have it, fp16 on older GPUs, fp32 on a CPU."""
    gradient_checkpointing: bool = False
    """Recompute the encoder in the backward pass: a quarter more work, much less memory."""
    compile: bool = False
    """Compile the layers with torch.compile."""

    # -- windows
    window: Literal["auto", "full", "packed"] = "auto"
    """full: pad utterances to 30 s; auto: to the longest of similar ones; packed: pack several into 30 s (pack_by)."""
    beyond: Literal["silence", "nothing"] = "silence"
    """With window auto, what follows a short window: borrowed silence, to train for 30 s windows; or nothing."""
    full_share: float = 0.0
    """With window auto: share of each step's utterances that is padded to 30 s; with beyond nothing, try 0.125."""
    full_final: float = 0.0
    """With window auto: share of all steps, at the end, that uses 30 s windows only."""
    min_window_seconds: float = 1.0
    """With window auto: shortest window in seconds."""
    margin_seconds: tuple[float, float] = (0.2, 0.5)
    """With window auto: range of the random silence after the longest utterance of a window, in seconds."""
    max_padding: float = 0.25
    """With window auto: largest share of an utterance's window that may be padding, 0 to 1."""

    # -- regularization
    timestamps: float = 0.0
    """Share of utterances whose labels have timestamps, 0 to 1; the others get <|notimestamps|>."""
    spec_augment: bool = False
    """SpecAugment: mask bands of time and frequency, within the utterance."""
    freeze_encoder: bool = False
    """Train the decoder only."""
    freeze_layers: int = 0
    """Freeze the first so many layers of the encoder."""
    lora_rank: int = 0
    """Train only LoRA adapters of this rank (needs the extra `lora`); 0: train the weights themselves."""
    dropout: float = 0.0
    """Dropout probability in encoder and decoder layers."""
    stochastic_depth: float = 0.0
    """Probability that an utterance skips an encoder layer."""

    # -- evaluation and stopping
    eval_every: int = 0
    """Evaluate every so many steps; 0: at the end of each epoch."""
    progress_every: int = 0
    """Also estimate the WER every so many steps, in short windows with borrowed silence; decides nothing; 0: never."""
    eval_limit: int = 0
    """Evaluate on so many utterances only, by a fixed shuffle; 0: all."""
    eval_batch: int = 32
    """Utterances per forward pass in evaluation."""
    max_new_tokens: int = 128
    """Longest hypothesis in tokens; the number of hypotheses cut off there is reported."""
    patience: int = 3
    """Stop early after so many evaluations without a better WER; 0: never."""
    average: int = 0
    """At the end, also score the mean of the last so many evaluated weights, and keep it if better; 0: none."""
    ema: float = 0.0
    """At the end, also score a moving average of the weights with this decay per step, such as 0.999; 0: none."""
    interpolate: bool = False
    """At the end, also score interpolations with the base model, and keep the best."""

    # -- saving
    save_every: int = 0
    """Save a checkpoint every so many steps; 0: at each evaluation."""
    save_minutes: float = 15.0
    """Save a checkpoint at least every so many minutes; 0: at every step."""
    resume: bool = True
    """Resume from the last checkpoint in RUN, if there is one."""
    log_every: int = 10
    """Write training metrics every so many steps."""
    tensorboard: bool = True
    """Also write the metrics to RUN/tensorboard."""
    max_nonfinite: int = 5
    """Stop with an error after so many steps whose loss or gradient is not finite."""
    threads: int = 0
    """CPU threads for torch; 0: all cores."""

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        StreamConfig.__post_init__(self)
        self._check_counts()
        if not 0.0 < self.lr < math.inf:
            raise ConfigError(f"--lr is {self.lr:g}; it must be above 0, and finite")
        _check_range("--save-minutes", self.save_minutes, 0.0, _MANY)
        _check_range("--max-grad-norm", self.max_grad_norm, 0.0, _MANY)
        _check_range("--weight-decay", self.weight_decay, 0.0, 1.0)
        _check_range("--min-lr-factor", self.min_lr_factor, 0.0, 1.0)
        _check_range("--warmup", self.warmup, 0.0, 1.0)
        _check_range("--full-share", self.full_share, 0.0, 1.0)
        _check_range("--full-final", self.full_final, 0.0, 1.0)
        _check_range("--label-smoothing", self.label_smoothing, 0.0, 0.3)
        _check_range("--timestamps", self.timestamps, 0.0, 1.0)
        _check_range("--ema", self.ema, 0.0, 0.99999)
        _check_range("--dropout", self.dropout, 0.0, 0.9)
        _check_range("--stochastic-depth", self.stochastic_depth, 0.0, 0.9)
        _check_range("--max-padding", self.max_padding, 0.0, 1.0)
        _check_range("--min-window-seconds", self.min_window_seconds, 0.1, 30.0)
        _check_order("--margin-seconds", self.margin_seconds)

    @property
    def hears_silence(self) -> bool:
        """Whether short windows hear borrowed silence."""
        return self.window == "auto" and self.beyond == "silence"

    def _check_counts(self) -> None:
        _check_range("--epochs", self.epochs, 1, _MANY)
        _check_range("--max-steps", self.max_steps, 0, _MANY)
        if self.micro_batch != "auto":
            _check_range("--micro-batch", self.micro_batch, 1, _MANY)
        _check_range("--freeze-layers", self.freeze_layers, 0, _MANY)
        _check_range("--lora-rank", self.lora_rank, 0, _MANY)
        _check_range("--eval-every", self.eval_every, 0, _MANY)
        _check_range("--progress-every", self.progress_every, 0, _MANY)
        _check_range("--eval-limit", self.eval_limit, 0, _MANY)
        _check_range("--eval-batch", self.eval_batch, 1, 1_000_000)
        _check_range("--max-new-tokens", self.max_new_tokens, 1, _MAX_NEW_TOKENS)
        _check_range("--patience", self.patience, 0, _MANY)
        _check_range("--average", self.average, 0, _MANY)
        _check_range("--save-every", self.save_every, 0, _MANY)
        _check_range("--log-every", self.log_every, 1, 1_000_000)
        _check_range("--max-nonfinite", self.max_nonfinite, 1, _MANY)
        _check_range("--threads", self.threads, 0, 4096)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreConfig:
    """Score a model on a dataset."""

    out: str = ""
    """Folder for score.json and score.html; empty: MODEL/score-<name of the dataset>."""
    window: Literal["full", "short", "both"] = "both"
    """Windows to decode in; full: 30 s, as standard tools do; short: as short as the audio allows."""
    language: str = ""
    """Language token where the data has no column `language`; empty: en."""
    task: Literal["transcribe", "translate"] = "transcribe"
    """Task token where the data has no column `task`."""
    eval_batch: int = 32
    """Utterances per forward pass."""
    max_new_tokens: int = 128
    """Longest hypothesis in tokens."""
    text_form: Literal["raw", "basic", "whisper"] = "basic"
    """Text of the headline WER; basic: lower case, no punctuation; whisper: Whisper's normalizer; raw: as it is."""
    limit: int = 0
    """Score so many utterances only, by a fixed shuffle; 0: all."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Number format of matrix products; auto: bf16 on GPUs that have it, fp16 on older GPUs, fp32 on a CPU."""
    threads: int = 0
    """CPU threads for torch; 0: all cores."""

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        _check_range("--eval-batch", self.eval_batch, 1, 1_000_000)
        _check_range("--max-new-tokens", self.max_new_tokens, 1, _MAX_NEW_TOKENS)
        _check_range("--limit", self.limit, 0, _MANY)
        _check_range("--threads", self.threads, 0, 4096)


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyConfig:
    """Check every byte of a dataset against its checksums, and decode every utterance."""

    sha256: str = ""
    """Required sha256 of dataset.json, known from elsewhere; empty: any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectConfig:
    """Show what a dataset holds, or one utterance of it."""

    key: str = ""
    """Key of the utterance to show; empty: show the dataset."""
    wav: str = ""
    """With key: also write the audio to this wav file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoConfig:
    """Synthesize a small speech corpus and take it all the way to a scored model, offline."""

    utterances: int = 1600
    """Recordings to synthesize."""
    steps: int = 400
    """Optimizer steps of the small Whisper, trained from random weights."""
    corpus_only: bool = False
    """Make the corpus and its TOML file, then stop."""
    seed: int = 0
    """Seed of the sentences and voices."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DoctorConfig:
    """Check the installation and say what is wrong with it."""

    fix: bool = False
    """Rename torchaudio's CUDA-only extension files if they keep it from being imported."""


def _check_range(flag: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ConfigError(f"{flag} is {value:g}; it must lie between {low:g} and {high:g}")


def _check_order(flag: str, seconds: tuple[float, float]) -> None:
    if not 0.0 <= seconds[0] <= seconds[1] <= 30.0:
        raise ConfigError(f"{flag} {seconds}: need 0 <= shortest <= longest <= 30")
