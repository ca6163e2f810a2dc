"""Settings of the command `index`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from whisper_shard.config.checks import check_range
from whisper_shard.config.plugins import PluginTables
from whisper_shard.config.prepare import PrepareConfig, TextStyle


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexConfig:
    """Index tars that others wrote (WebDataset, NeMo, Lhotse Shar), to stream them as they are."""

    SECTIONS: ClassVar[Mapping[str, str]] = {
        "manifest": "text",
        "npy_sample_rate": "audio",
        "min_seconds": "filter",
        "jobs": "run",
    }
    """Sections of ``--help``, each by the first of its settings."""

    manifest: str = ""
    """NeMo manifest of the tars, or a pattern of one manifest for each tar; empty: texts lie in or beside the tars."""
    text_field: str = "text"
    """Field of the text in json members and in the lines of a manifest."""
    text_style: TextStyle = "basic"
    """basic: lower case, no punctuation; written: clean spaces; whisper-...: Whisper's own; regex: rules; none."""
    text_rules: PluginTables = ()
    """Rules of text_style regex, TOML only: [[index.text_rules]] pattern = "...", replacement = "..."."""
    tokenizer: str = ""
    """Model folder whose tokenizer counts tokens: texts too long for its decoder are rejected; empty: no check."""

    npy_sample_rate: int = 16_000
    """Sampling rate of npy members in Hz, which they do not say themselves."""

    min_seconds: float = 1.0
    """Reject utterances of this many seconds or less."""
    max_seconds: float = 30.0
    """Reject utterances of this many seconds or more; at most 30, Whisper's window."""
    min_text_chars: int = 6
    """Reject utterances with fewer characters of normalized text than this."""
    max_recording_seconds: float = 600.0
    """Reject members with more seconds of audio than this, without decoding them to the end."""
    quality: bool = True
    """Measure level, noise, clipping, bandwidth and speech of each utterance into the index, for filters and views."""
    filters: PluginTables = ()
    """Further filters, TOML only: [[index.filters]] kind = "speaking_rate" ..."""

    jobs: int = 0
    """Worker processes; 0: one per core."""
    decode_timeout_seconds: float = 120.0
    """Reject a member whose decoding takes longer than this many seconds."""
    worker_memory_mb: int = 4096
    """Reject a member whose decoding needs more memory than this many MB."""
    max_reject_fraction: float = 0.5
    """End with an error if more than this share of all utterances is rejected, 0 to 1."""
    rebuild: bool = False
    """If OUT holds an index already, make it again instead of refusing."""

    def __post_init__(self) -> None:
        """Validate."""
        check_range("--npy-sample-rate", self.npy_sample_rate, 1_000, 768_000)
        self.as_prepare()

    def as_prepare(self) -> PrepareConfig:
        """Return the settings of a preparation that neither trims nor normalizes.

        Raises:
            ConfigError: A value is out of range.
        """
        return PrepareConfig(
            trim_db=0.0,
            peak=0.0,
            text_style=self.text_style,
            text_rules=self.text_rules,
            tokenizer=self.tokenizer,
            min_seconds=self.min_seconds,
            max_seconds=self.max_seconds,
            min_text_chars=self.min_text_chars,
            max_recording_seconds=self.max_recording_seconds,
            quality=self.quality,
            filters=self.filters,
            jobs=self.jobs,
            decode_timeout_seconds=self.decode_timeout_seconds,
            worker_memory_mb=self.worker_memory_mb,
            max_reject_fraction=self.max_reject_fraction,
        )
