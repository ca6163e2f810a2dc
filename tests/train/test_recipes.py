"""The recipes in configs/ do what they promise; tests/test_pretrained.py trains with one of them on real speech."""

import numpy as np
import pytest

from tests.making import make_dataset
from tests.train.running import of_kind
from whisper_shard.cli.flags import load_config
from whisper_shard.config.train import TrainConfig
from whisper_shard.stream.loader import open_loader
from whisper_shard.train.events import Delivered, Started
from whisper_shard.train.loop import train_model


def load_recipe(name, *argv):
    config, _ = load_config(TrainConfig, command="train", argv=["--config", f"configs/{name}", *argv], positionals={})
    return config


@pytest.mark.slow
def test_long_form_trains_packed_windows_and_single_utterances(tiny_folder, tmp_path):
    lengths = np.random.default_rng(0).uniform(0.3, 1.2, 120).tolist()
    train = make_dataset(tmp_path / "train", lengths, per_shard=60)
    make_dataset(tmp_path / "eval", [0.5, 1.0], seed=9, prefix="eval")
    short = ["--model", str(tiny_folder), "--max-steps", "0", "--epochs", "1", "--workers", "0", "--threads", "1"]
    config = load_recipe("long-form.toml", *short, "--max-new-tokens", "4", "--no-tensorboard")
    batches = list(open_loader(train, config.stream, epochs=1))
    rows = [len(row) for batch in batches for row in batch.segments if row]
    assert sum(rows) == 120 and 40 < rows.count(1) < 80 and max(rows) > 15
    assert all(float(batch.num_samples.sum()) <= 30 * 16_000 for batch in batches)
    events = []
    report = train_model(tmp_path, tmp_path / "run", config, events.append)
    assert report.steps == len(batches)
    low, high = of_kind(events, Started)[0].forecast.windows
    assert low < 2.0 and high > 12.0
    assert of_kind(events, Delivered)[0].is_complete
