"""A configuration written as TOML."""

import tomllib

import pytest

from whisper_shard.cli.flags import load_config
from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.config.settings import flatten_settings, replace_settings
from whisper_shard.config.stream import GUIDE_AUGMENT
from whisper_shard.config.toml import dump_config
from whisper_shard.config.tools import BenchConfig
from whisper_shard.config.train import TrainConfig


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        (PrepareConfig, {"min_seconds": 0.25, "filters": ({"kind": "x", "y": [1, 2.5, "z"]},), "eval_corpus": 'a "b"'}),
        (TrainConfig, {"augment": (), "margin_seconds": (0.0, 3.0), "lr": 1e-7, "resume": False}),
        (BenchConfig, {"augment": GUIDE_AUGMENT}),
        (TrainConfig, {"augment": ({"kind": "OneOf", "transforms": [{"kind": "Gain", "p": 1.0}], "p": 0.5},)}),
    ],
)
def test_a_dumped_configuration_reads_back_the_same(tmp_path, kind, changes):
    config = replace_settings(kind(), changes)
    file = tmp_path / "config.toml"
    file.write_text(dump_config(config, "train"))
    assert load_config(kind, command="train", argv=["--config", str(file)], positionals={})[0] == config


def test_all_settings_stand_side_by_side_in_one_table():
    table = tomllib.loads(dump_config(TrainConfig(), "train"))
    assert list(table) == ["train"]
    assert list(table["train"]) == list(flatten_settings(TrainConfig()))
    assert not any(isinstance(value, dict) for value in table["train"].values())


def test_any_text_survives(tmp_path):
    config = replace_settings(TrainConfig(), {"model": 'a "quoted"\tname\x7f', "augment": ({"kind": "x:Y", "a b": 1},)})
    assert tomllib.loads(dump_config(config, "train"))["train"]["model"] == config.model
    file = tmp_path / "config.toml"
    file.write_text(dump_config(config, "train"))
    found, _ = load_config(TrainConfig, command="train", argv=["--config", str(file)], positionals={})
    assert found.stream.augment == config.stream.augment
