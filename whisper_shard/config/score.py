"""Settings of the command `score`."""

from dataclasses import dataclass
from typing import Literal

from whisper_shard.config.checks import MANY, MAX_NEW_TOKENS, check_range, parse_slice
from whisper_shard.errors import ConfigError


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
    write_columns: str = ""
    """Store hypothesis, error rates and confidence of each utterance beside the dataset, for `filter`, as NAME."""
    slice: str = ""
    """With write_columns: do part I of N only, such as 3/16; empty: RANK and WORLD_SIZE of torchrun, else all."""
    limit: int = 0
    """Score N utterances only, by a fixed shuffle; 0: all."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Number format of matrix products; auto: bf16 on GPUs that have it, fp16 on older GPUs, fp32 on a CPU."""
    threads: int = 0
    """CPU threads for torch; 0: all cores."""

    def __post_init__(self) -> None:
        """Validate."""
        check_range("--eval-batch", self.eval_batch, 1, 1_000_000)
        check_range("--max-new-tokens", self.max_new_tokens, 1, MAX_NEW_TOKENS)
        check_range("--limit", self.limit, 0, MANY)
        check_range("--threads", self.threads, 0, 4096)
        if self.slice:
            parse_slice("--slice", self.slice)
        if self.slice and not self.write_columns:
            raise ConfigError("--slice shares out the work of --write-columns NAME: give that, too")
