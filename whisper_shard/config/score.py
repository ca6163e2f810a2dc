"""Settings of the command `score`."""

import math
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Literal

from whisper_shard.config.checks import MANY, MAX_NEW_TOKENS, check_range, parse_slice
from whisper_shard.errors import ConfigError

MAX_BEAMS = 64
"""Beams at most: each takes memory and time."""
MAX_PROBE_MINUTES = 300.0
"""Audio of a probe at most: all of it lies in memory, 1.2 GB."""
_NOT_OF_PROBE = (
    "window",
    "task",
    "max_new_tokens",
    "beams",
    "timestamps",
    "prompts",
    "hypotheses",
    "by",
    "write_columns",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceColumn:
    """A column by which a score is cut into slices."""

    column: str
    """Its name."""
    edges: tuple[float, ...] = ()
    """Where its numbers are cut, ascending; empty: at the quartiles."""


def parse_slice_column(text: str) -> SliceColumn:
    """Return the column and the edges in a text such as ``snr_db:10,20,30``.

    Raises:
        ConfigError: It has another form.
    """
    column, _, given = text.partition(":")
    try:
        edges = tuple(map(float, given.split(","))) if given else ()
    except ValueError:
        edges = (math.nan,)
    is_ascending = all(low < high for low, high in pairwise(edges)) and all(map(math.isfinite, edges))
    if not (column and is_ascending) or text.endswith(":"):
        raise ConfigError(f"--by {text}: must be COLUMN, or COLUMN:EDGE,EDGE,... ascending, such as snr_db:10,20,30")
    return SliceColumn(column=column, edges=edges)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreConfig:
    """Score a model on a dataset."""

    out: str = ""
    """Folder for score.json, .parquet and .html; empty: MODEL/score-<name of the dataset>."""
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
    beams: int = 1
    """Texts that are followed at once in decoding, by beam search; 1: greedy."""
    timestamps: bool = False
    """Decode with times, and compare them with those of the phrases in the data."""
    prompts: bool = False
    """Give the model the text before each utterance, where the data has a column `prompt`."""
    text_form: Literal["raw", "basic", "whisper"] = "basic"
    """Text of the headline WER; basic: lower case, no punctuation; whisper: Whisper's normalizer; raw: as it is."""
    hypotheses: str = ""
    """Score the texts of this file (.csv, .tsv, .jsonl, .json, .parquet) or of this score folder, without a model."""
    against: str = ""
    """Compare with this score folder, file of hypotheses, or model, utterance by utterance."""
    by: tuple[str, ...] = ()
    """Columns to cut the score by; COLUMN:10,20 cuts numbers there; none: seconds, speaker, language, snr_db."""
    players: bool = True
    """Embed the audio of the utterances on the page; off: score.html holds texts only."""
    write_columns: str = ""
    """Store hypothesis, error rates and confidence of each utterance beside the dataset, for `filter`, as NAME."""
    probe: bool = False
    """Join utterances to long recordings and transcribe them with the model and its base, or --against BASE."""
    probe_minutes: float = 2.0
    """Length of each of these recordings."""
    probe_recordings: int = 10
    """Recordings at most."""
    slice: str = ""
    """With write_columns: do part I of N only, such as 3/16; empty: RANK and WORLD_SIZE of torchrun, else all."""
    limit: int = 0
    """Score N utterances only, by a fixed shuffle; 0: all."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Number format of matrix products; auto: bf16 on GPUs that have it, fp16 on older GPUs, fp32 on a CPU."""
    threads: int = 0
    """CPU threads for torch; 0: all cores."""

    @property
    def slice_columns(self) -> tuple[SliceColumn, ...]:
        """What ``by`` says."""
        return tuple(map(parse_slice_column, self.by))

    def __post_init__(self) -> None:
        """Validate."""
        check_range("--eval-batch", self.eval_batch, 1, 1_000_000)
        check_range("--max-new-tokens", self.max_new_tokens, 1, MAX_NEW_TOKENS)
        check_range("--beams", self.beams, 1, MAX_BEAMS)
        check_range("--limit", self.limit, 0, MANY)
        check_range("--threads", self.threads, 0, 4096)
        if len({each.column for each in self.slice_columns}) < len(self.by):
            raise ConfigError(f"--by {' '.join(self.by)}: names a column twice")
        if self.write_columns and (self.hypotheses or self.against or self.by):
            raise ConfigError("--write-columns only stores columns: leave out --hypotheses, --against and --by")
        if self.prompts and self.write_columns:
            raise ConfigError("--write-columns stores what is heard without prompts: leave out --prompts")
        if self.timestamps and (self.beams > 1 or self.write_columns):
            raise ConfigError("--timestamps decodes greedily for a report: leave out --beams and --write-columns")
        if self.hypotheses and self.limit:
            raise ConfigError("--limit chooses what is decoded: leave it out with --hypotheses")
        self._check_probe()
        if self.slice:
            parse_slice("--slice", self.slice)
        if self.slice and not self.write_columns:
            raise ConfigError("--slice shares out the work of --write-columns NAME: give that, too")

    def _check_probe(self) -> None:
        check_range("--probe-minutes", self.probe_minutes, 0.5, 60.0)
        check_range("--probe-recordings", self.probe_recordings, 1, 1_000)
        if (total := self.probe_minutes * self.probe_recordings) > MAX_PROBE_MINUTES:
            raise ConfigError(
                f"--probe-minutes {self.probe_minutes:g} times --probe-recordings {self.probe_recordings} is "
                f"{total:g} minutes; at most {MAX_PROBE_MINUTES:g} are probed"
            )
        defaults = {field.name: field.default for field in fields(self)}
        changed = [name for name in _NOT_OF_PROBE if getattr(self, name) != defaults[name]]
        if self.probe and changed:
            flags = ", ".join(f"--{name.replace('_', '-')}" for name in changed)
            raise ConfigError(f"--probe transcribes long recordings as `transcribe` does: leave out {flags}")
