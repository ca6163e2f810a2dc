"""Settings of the command `transcribe`."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal

from whisper_shard.config.checks import MANY, MAX_NEW_TOKENS, check_range
from whisper_shard.errors import ConfigError

FORMATS = ("txt", "srt", "vtt", "json", "tsv")
"""Formats of transcripts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TranscribeConfig:
    """Transcribe recordings of any length, with times."""

    SECTIONS: ClassVar[Mapping[str, str]] = {"temperatures": "decoding", "batch": "machine"}

    output: str = ""
    """Folder for the transcripts; what is complete in it is kept. Empty: they are only printed."""
    format: tuple[str, ...] = ()
    """Files to write for each recording: txt, srt, vtt, json, tsv; empty: txt."""
    language: str = ""
    """Language spoken, such as en; empty: the model's own setting, else the one heard in each recording."""
    task: Literal["transcribe", "translate"] = "transcribe"
    """translate: into English."""
    word_timestamps: bool = False
    """Also find when each word is said; needs format json."""
    vad: bool = False
    """Transcribe only speech, found by Silero's detector: windows of up to 30 s around it, decoded together."""
    temperatures: tuple[float, ...] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    """Tried in this order until a window's text is good enough; 0: always the most probable token."""
    max_compression_ratio: float = 2.4
    """A text that zlib shortens more repeats itself: the next temperature is tried; 0: it does not matter."""
    min_avg_logprob: float = -1.0
    """A text whose tokens are less probable on average is unsure: the next temperature is tried."""
    max_no_speech: float = 0.6
    """An unsure text is taken for silence if the model gives silence a higher probability; 1: never."""
    condition_on_previous: bool = False
    """Tell the model the text before each window; helps with names, but mistakes may be repeated."""
    max_new_tokens: int = 224
    """Most tokens of a window of 30 s."""
    seed: int = 42
    """Seed of the temperatures above 0."""
    batch: int = 1
    """Recordings transcribed side by side; with vad, windows decoded together."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Number format of matrix products; auto: bf16 on GPUs that have it, fp16 on older GPUs, fp32 on a CPU."""
    threads: int = 0
    """CPU threads for torch; 0: all cores."""

    def __post_init__(self) -> None:
        """Validate."""
        for name in self.format:
            if name not in FORMATS:
                raise ConfigError(f"--format {name}: unknown; use {', '.join(FORMATS)}")
        if self.format and not self.output:
            raise ConfigError(f"--format {' '.join(self.format)} needs a folder for the files: --output FOLDER")
        if self.word_timestamps and "json" not in self.format:
            raise ConfigError("--word-timestamps are written to json alone: add --format json --output FOLDER")
        if self.vad and self.condition_on_previous:
            raise ConfigError("--condition-on-previous needs one window after the other; leave it out, or --vad")
        if not self.temperatures:
            raise ConfigError("--temperatures needs at least one value, such as 0")
        for temperature in self.temperatures:
            check_range("--temperatures", temperature, 0.0, 10.0)
        if any(before >= after for before, after in pairwise(self.temperatures)):
            raise ConfigError(f"--temperatures {self.temperatures}: each must be higher than the one before")
        check_range("--max-compression-ratio", self.max_compression_ratio, 0.0, 1000.0)
        check_range("--min-avg-logprob", self.min_avg_logprob, -1000.0, 0.0)
        check_range("--max-no-speech", self.max_no_speech, 0.0, 1.0)
        check_range("--max-new-tokens", self.max_new_tokens, 1, MAX_NEW_TOKENS)
        check_range("--seed", self.seed, 0, MANY)
        check_range("--batch", self.batch, 1, 4096)
        check_range("--threads", self.threads, 0, 4096)
