"""Settings of the loader, shared by `train` and `bench`."""

from dataclasses import dataclass
from typing import Literal

from whisper_shard.config.checks import MANY, check_order, check_range
from whisper_shard.config.plugins import PluginTables

GUIDE_AUGMENT: PluginTables = (
    {"kind": "AddGaussianNoise", "min_amplitude": 0.0005, "max_amplitude": 0.003, "p": 0.2},
    {"kind": "Gain", "min_gain_db": -2.0, "max_gain_db": 2.0, "p": 0.2},
)
"""What the popular fine-tuning guide does to training audio."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamConfig:
    """How a dataset becomes batches."""

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
    pack_share: float = 1.0
    """With pack_by: share of the utterances that is packed, the same in every epoch; the others stay alone, 0 to 1."""
    workers: int = 2
    """Loader processes; 0: read in the training process."""
    prefetch: int = 2
    """Batches that each loader process keeps ready."""
    load_timeout_seconds: float = 600.0
    """Stop with an error if loader processes deliver no batch for this long; 0: wait for ever."""
    read_ahead_mb: int = 1024
    """Memory for audio read ahead of its use, in MB (10^6 bytes) per training process; 0: do not read ahead."""
    cache: str = ""
    """Folder on a local disk that keeps shards for the next epochs, for all processes of a machine; empty: none."""
    cache_gb: float = 100.0
    """Limit of what the cache keeps, in GB (10^9 bytes); a fixed part of the shards where not all fit."""
    bad_record: Literal["raise", "skip"] = "raise"
    """At a damaged utterance: stop with an error, or log it and keep its row with weight 0."""
    max_bad: int = 100
    """With bad_record skip: stop with an error after more than this many."""
    seed: int = 42
    """Seed of order, augmentation and initial weights."""
    augment: PluginTables = GUIDE_AUGMENT
    """Augmentations of the training audio, TOML only; []: none."""
    sample_format: Literal["float32", "int16"] = "float32"
    """Samples of a batch: float32 in [-1, 1]; or int16, half the bytes between processes and to the GPU."""

    def __post_init__(self) -> None:
        """Validate."""
        check_range("--batch-size", self.batch_size, 1, 1_000_000)
        check_range("--batch-seconds", self.batch_seconds, 0.0, 1e7)
        check_range("--length-buckets", self.length_buckets, 1, 256)
        check_range("--workers", self.workers, 0, 1024)
        check_range("--prefetch", self.prefetch, 1, 1000)
        check_range("--load-timeout-seconds", self.load_timeout_seconds, 0.0, MANY)
        check_range("--read-ahead-mb", self.read_ahead_mb, 0, 1_000_000)
        check_range("--cache-gb", self.cache_gb, 0.0, 1e6)
        check_range("--max-bad", self.max_bad, 0, MANY)
        check_order("--pack-gap-seconds", self.pack_gap_seconds)
        check_range("--pack-share", self.pack_share, 0.0, 1.0)
