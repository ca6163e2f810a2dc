"""Settings of the commands `bench`, `verify`, `inspect`, `compare`, `demo` and `doctor`."""

from dataclasses import dataclass, field

from whisper_shard.config.checks import check_range
from whisper_shard.config.stream import StreamConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchConfig:
    """Measure loader throughput, stage by stage.

    workers is not used here: loaders with 0, 1, 2, ... max_workers processes are tried.
    """

    stream: StreamConfig = field(default_factory=StreamConfig)

    out: str = ""
    """Folder for bench.json and bench.html; empty: the dataset's own, or the current one where the dataset is a URL."""
    seconds: float = 4.0
    """Measuring time per setting, in seconds."""
    max_workers: int = -1
    """Try 0, 1, 2, ... up to this many loader processes; -1: the number of cores."""
    step_ms: float = 0.0
    """Time of one training step in milliseconds, to compute the loader's headroom; 0: unknown."""
    dollars_per_1000_gets: float = 0.0004
    """Price of 1,000 GET requests, for the price of an epoch. Source: AWS S3 Standard, us-east-1, November 2026."""
    dollars_per_gb: float = 0.0
    """Price of a GB read; 0 within a region of AWS S3, 0.09 out to the internet (us-east-1, November 2026)."""
    model: str = ""
    """Model folder whose training step is measured, instead of giving step_ms."""

    def __post_init__(self) -> None:
        """Validate."""
        check_range("--max-workers", self.max_workers, -1, 1024)
        check_range("--step-ms", self.step_ms, 0.0, 1e7)
        check_range("--dollars-per-1000-gets", self.dollars_per_1000_gets, 0.0, 1e6)
        check_range("--dollars-per-gb", self.dollars_per_gb, 0.0, 1e6)


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
    browse: bool = False
    """Serve a page of the utterances with players, to search and to sort, for the browser of this machine."""
    port: int = 0
    """With browse: port of that page on 127.0.0.1; 0: any that is free."""

    def __post_init__(self) -> None:
        """Validate."""
        check_range("--port", self.port, 0, 65_535)


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareConfig:
    """Show runs side by side: error rates, and the settings in which they differ."""

    all_settings: bool = False
    """Show the settings that are equal too."""


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
