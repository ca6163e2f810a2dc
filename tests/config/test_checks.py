"""Values out of range are errors that name the flag."""

import math

import pytest

from whisper_shard.config.score import ScoreConfig
from whisper_shard.config.settings import replace_settings
from whisper_shard.config.stream import StreamConfig
from whisper_shard.config.tools import BenchConfig
from whisper_shard.config.train import TrainConfig
from whisper_shard.errors import ConfigError


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        (StreamConfig, {"batch_size": 0}, r"--batch-size is 0; it must lie between 1 and 1e\+06"),
        (StreamConfig, {"batch_seconds": -1.0}, r"--batch-seconds is -1; it must lie between 0 and 1e\+07"),
        (StreamConfig, {"batch_seconds": math.nan}, r"--batch-seconds is nan; "),
        (StreamConfig, {"length_buckets": 257}, r"--length-buckets is 257; it must lie between 1 and 256"),
        (StreamConfig, {"workers": -1}, r"--workers is -1; it must lie between 0 and 1024"),
        (StreamConfig, {"prefetch": 0}, r"--prefetch is 0; it must lie between 1 and 1000"),
        (StreamConfig, {"max_bad": -1}, r"--max-bad is -1; "),
        (StreamConfig, {"pack_share": 1.5}, r"--pack-share is 1.5; it must lie between 0 and 1"),
        (StreamConfig, {"pack_gap_seconds": (0.5, 0.1)}, r"--pack-gap-seconds \(0.5, 0.1\): need 0 <= shortest"),
        (BenchConfig, {"prefetch": 0}, r"--prefetch is 0; it must lie between 1 and 1000"),
        (BenchConfig, {"max_workers": -2}, r"--max-workers is -2; it must lie between -1 and 1024"),
        (BenchConfig, {"step_ms": -1.0}, r"--step-ms is -1; "),
        (TrainConfig, {"workers": -1}, r"--workers is -1; it must lie between 0 and 1024"),
        (TrainConfig, {"epochs": 0}, r"--epochs is 0; it must lie between 1 and "),
        (TrainConfig, {"max_steps": -1}, r"--max-steps is -1; it must lie between 0 and "),
        (TrainConfig, {"lr": 0.0}, r"--lr is 0; it must be above 0, and finite"),
        (
            TrainConfig,
            {"ema": 0.9, "lora_rank": 4},
            r"--ema 0.9 with --lora-rank 4: a moving average of",
        ),
        (TrainConfig, {"lr": math.inf}, r"--lr is inf; it must be above 0, and finite"),
        (TrainConfig, {"patience": -1}, r"--patience is -1; "),
        (TrainConfig, {"eval_batch": 0}, r"--eval-batch is 0; it must lie between 1 and "),
        (TrainConfig, {"max_new_tokens": 448}, r"--max-new-tokens is 448; it must lie between 1 and 447"),
        (TrainConfig, {"micro_batch": 0}, r"--micro-batch is 0; it must lie between 1 and"),
        (TrainConfig, {"dropout": 0.95}, r"--dropout is 0.95; it must lie between 0 and 0.9"),
        (TrainConfig, {"save_minutes": -1.0}, r"--save-minutes is -1; it must lie between 0 and "),
        (TrainConfig, {"margin_seconds": (2.0, 1.0)}, r"--margin-seconds \(2.0, 1.0\): need 0 <= shortest <= longest"),
        (TrainConfig, {"min_window_seconds": 0.0}, r"--min-window-seconds is 0; it must lie between 0.1 and 30"),
        (TrainConfig, {"max_grad_norm": -1.0}, r"--max-grad-norm is -1; "),
        (TrainConfig, {"weight_decay": -0.1}, r"--weight-decay is -0.1; it must lie between 0 and 1"),
        (TrainConfig, {"max_nonfinite": 0}, r"--max-nonfinite is 0; it must lie between 1 and "),
        (ScoreConfig, {"eval_batch": 0}, r"--eval-batch is 0; it must lie between 1 and "),
        (ScoreConfig, {"max_new_tokens": 0}, r"--max-new-tokens is 0; it must lie between 1 and 447"),
        (ScoreConfig, {"limit": -1}, r"--limit is -1; it must lie between 0 and "),
        (ScoreConfig, {"threads": -1}, r"--threads is -1; it must lie between 0 and 4096"),
    ],
)
def test_impossible_values_are_refused(kind, changes, message):
    with pytest.raises(ConfigError, match=message):
        replace_settings(kind(), changes)
