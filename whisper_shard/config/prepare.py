"""Settings of the command `prepare`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from whisper_shard.config.checks import check_range, parse_slice
from whisper_shard.config.plugins import PluginTables
from whisper_shard.errors import ConfigError

TextStyle = Literal["none", "basic", "written", "whisper-basic", "whisper-english", "regex"]
"""Names of the ways to normalize transcripts; see `text.styles`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareConfig:
    """Turn a corpus into tar shards, a Parquet index and a report."""

    SECTIONS: ClassVar[Mapping[str, str]] = {
        "manifest_format": "corpus",
        "channel": "waveform",
        "text_style": "text",
        "min_seconds": "filter",
        "codec": "output",
        "jobs": "run",
    }
    """Sections of ``--help``, each by the first of its settings."""

    manifest_format: str = ""
    """Format of the corpus, as in docs/corpora.md: csv, json, parquet, kaldi ...; empty: by its content."""
    audio_column: str = ""
    """Column of audio paths; empty: the first with a usual name (audios, audio, path ...), else the one with paths."""
    text_column: str = ""
    """Column of transcripts; empty: the first with a usual name (transcription, text ...), else the one with texts."""
    ignore_columns: tuple[str, ...] = ()
    """Columns that are only carried along, though their names (duration, start, end, channel ...) have a meaning."""
    encoding: str = ""
    """Encoding of a text manifest, such as cp1251; empty: UTF-8, UTF-16 or Windows-1252, by its content."""
    eval_corpus: str = ""
    """A second manifest, local or a URL, to use as the evaluation set; empty: split it off the corpus."""
    eval_fraction: float = 0.1
    """Share of the corpus set aside for evaluation, 0 to 0.9; 0: no evaluation set."""
    split_by: str = ""
    """What is never on both sides of the split: speaker, recording or a column; recordings never are."""
    seed: int = 42
    """Seed of the split and of the order of utterances in the shards."""

    channel: str = "mix"
    """Channel of recordings with several, for rows that do not say which: mix (their average), 0, 1 ..."""
    segment: Literal["none", "vad"] = "none"
    """vad: cut recordings without a text into utterances, where nobody speaks; texts come later, from a model."""
    trim_db: float = 30.0
    """Trim both ends where they are more than this many dB below the loudest frame; 0: do not trim."""
    peak: float = 1.0
    """Largest absolute sample after peak normalization, 0 to 1; 0: keep the level."""

    text_style: TextStyle = "basic"
    """basic: lower case, no punctuation; written: clean spaces; whisper-...: Whisper's own; regex: rules; none."""
    text_rules: PluginTables = ()
    """Rules of text_style regex, TOML only: [[prepare.text_rules]] pattern = "...", replacement = "..."."""
    tokenizer: str = ""
    """Model folder whose tokenizer counts tokens: texts too long for its decoder are rejected; empty: no check."""
    min_seconds: float = 1.0
    """Reject utterances of this many seconds or less, after trimming."""
    max_seconds: float = 30.0
    """Reject utterances of this many seconds or more, after trimming; at most 30, Whisper's window."""
    min_text_chars: int = 6
    """Reject utterances with fewer characters of normalized text than this."""
    empty_texts: Literal["reject", "keep"] = "reject"
    """keep: in recordings with an empty transcript nobody speaks; a model learns from them to write nothing there."""
    max_recording_seconds: float = 600.0
    """Reject recordings longer than this many seconds before trimming, but those that --segment vad cuts."""
    quality: bool = True
    """Measure level, noise, clipping, bandwidth and speech of each utterance into the index, for filters and views."""
    min_chars_per_second: float = 0.0
    """Reject utterances with fewer characters of text a second than this; 0: any."""
    max_chars_per_second: float = 0.0
    """Reject utterances with more characters of text a second than this, as where the text is another's; 0: any."""
    min_rms_db: float = -120.0
    """Reject utterances with a lower level than this, in dB below full scale; -120: any."""
    min_snr_db: float = -20.0
    """Reject utterances whose speech is not this many dB above their quietest tenth; -20: any."""
    min_speech_fraction: float = 0.0
    """Reject utterances with speech in less than this share of their time, 0 to 1."""
    max_clipped_fraction: float = 1.0
    """Reject recordings of which a larger share of the samples is cut off at the extremes, 0 to 1."""
    min_bandwidth_hz: float = 0.0
    """Reject recordings without frequencies as high as this, in Hz: 3500 rejects less than a telephone; 0: any."""
    min_sample_rate: int = 0
    """Reject recordings with a sampling rate below this, in Hz; 0: any."""
    duplicates: Literal["keep", "drop"] = "keep"
    """drop: of utterances with the same samples, keep that of the first row, and of train none that eval has."""
    languages: tuple[str, ...] = ()
    """Keep only utterances of these languages, as the manifest tags them; empty: all."""
    filters: PluginTables = ()
    """Further filters, TOML only: [[prepare.filters]] kind = "repeated_words" ..."""
    decoders: PluginTables = ()
    """Further decoders, tried before the built-in ones, TOML only: [[prepare.decoders]] kind = "pkg.mod:Class"."""

    codec: Literal["npy", "flac"] = "npy"
    """npy: int16 arrays, fastest to read; flac: half the bytes, lossless, slower to read."""
    shard_mb: int = 256
    """Target size of a shard in MB (10^6 bytes); each worker holds one shard in memory."""

    jobs: int = 0
    """Worker processes; 0: one per core."""
    engine: Literal["local", "dask", "ray"] = "local"
    """Where shards are prepared: here, or by the workers of a Dask or Ray cluster, which must see the same files."""
    engine_address: str = ""
    """Address of the cluster, such as tcp://10.0.0.1:8786; empty: Ray finds or starts one by itself."""
    slice: str = ""
    """Prepare only a part of the shards, such as 3/16 for the third of 16 machines; --finish completes the datasets."""
    finish: bool = False
    """Make the datasets of shards that slices have prepared; an error where one is missing."""
    decode_timeout_seconds: float = 120.0
    """Reject a recording whose decoding takes longer than this many seconds."""
    worker_memory_mb: int = 4096
    """Reject a recording whose decoding needs more memory than this many MB (beside the shard that a worker holds)."""
    max_reject_fraction: float = 0.5
    """End with an error if more than this share of all rows is rejected, 0 to 1."""
    rebuild: bool = False
    """If OUT was made with other settings or another manifest, remove it and prepare everything again."""
    dry_run: bool = False
    """Print the plan, prepare the first 50 recordings to see whether they are kept, and write nothing."""

    def __post_init__(self) -> None:
        """Validate."""
        if self.channel != "mix" and not (self.channel.isascii() and self.channel.isdecimal()):
            raise ConfigError(f"--channel {self.channel}: must be mix, or the number of a channel, counted from 0")
        self._check_machines()
        if (self.text_style == "regex") != bool(self.text_rules):
            raise ConfigError(
                f"--text-style {self.text_style} with {len(self.text_rules)} text_rules: "
                "style regex needs rules, [[prepare.text_rules]] in a TOML file, and only it has any"
            )
        if self.empty_texts == "keep" and self.segment == "vad":
            raise ConfigError(
                "--empty-texts keep with --segment vad: an empty transcript would mean both that nobody speaks and "
                "that the text is not known yet; prepare the two kinds of recordings apart, and train with --mix"
            )
        if self.split_by and self.eval_corpus:
            raise ConfigError(f"--split-by {self.split_by}: with --eval-corpus nothing is split; give one of the two")
        check_range("--eval-fraction", self.eval_fraction, 0.0, 0.9)
        check_range("--peak", self.peak, 0.0, 1.0)
        check_range("--max-reject-fraction", self.max_reject_fraction, 0.0, 1.0)
        check_range("--trim-db", self.trim_db, 0.0, 120.0)
        check_range("--shard-mb", self.shard_mb, 1, 100_000)
        check_range("--seed", self.seed, 0, 2**63)
        check_range("--min-text-chars", self.min_text_chars, 0, 100_000)
        check_range("--max-recording-seconds", self.max_recording_seconds, self.max_seconds, 86_400)
        check_range("--decode-timeout-seconds", self.decode_timeout_seconds, 0.01, 86_400)
        check_range("--worker-memory-mb", self.worker_memory_mb, 1_000, 1_000_000)
        check_range("--min-chars-per-second", self.min_chars_per_second, 0.0, 1_000.0)
        check_range("--max-chars-per-second", self.max_chars_per_second, 0.0, 1_000.0)
        check_range("--min-rms-db", self.min_rms_db, -120.0, 0.0)
        check_range("--min-snr-db", self.min_snr_db, -20.0, 100.0)
        check_range("--min-speech-fraction", self.min_speech_fraction, 0.0, 1.0)
        check_range("--max-clipped-fraction", self.max_clipped_fraction, 0.0, 1.0)
        check_range("--min-bandwidth-hz", self.min_bandwidth_hz, 0.0, 384_000.0)
        check_range("--min-sample-rate", self.min_sample_rate, 0, 768_000)
        check_range("--jobs", self.jobs, 0, 4096)
        if not 0.0 <= self.min_seconds < self.max_seconds <= 30.0:
            raise ConfigError(
                f"--min-seconds {self.min_seconds:g} and --max-seconds {self.max_seconds:g}: need "
                "0 <= min < max <= 30, the window of Whisper"
            )

    def _check_machines(self) -> None:
        """Check the settings that spread the work over machines.

        Raises:
            ConfigError: One of them is malformed, or two contradict each other.
        """
        if self.slice:
            parse_slice("--slice", self.slice)
        if self.engine == "dask" and not self.engine_address:
            raise ConfigError("--engine dask: needs --engine-address, such as tcp://10.0.0.1:8786")
        if self.engine == "local" and self.engine_address:
            raise ConfigError(f"--engine-address {self.engine_address}: needs --engine dask or --engine ray")
        chosen = [
            flag
            for flag, is_given in {
                "--slice": self.slice,
                "--finish": self.finish,
                "--rebuild": self.rebuild,
                "--engine": self.engine != "local",
            }.items()
            if is_given
        ]
        if len(chosen) > 1 and chosen != ["--rebuild", "--engine"]:
            raise ConfigError(f"{' and '.join(chosen)} cannot be given together")
