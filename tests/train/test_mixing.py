"""Several datasets in one run: each in its share, told apart from a run on other ones."""

import pytest

from tests.making import make_dataset
from tests.train.running import of_kind, tiny_config
from whisper_shard.config.settings import replace_settings
from whisper_shard.errors import DatasetError, StateError, TrainingError
from whisper_shard.train.events import Delivered, Started
from whisper_shard.train.loop import train_model


def test_a_mixture_is_delivered_by_weight_and_belongs_to_its_run(task, tmp_path):
    other = make_dataset(tmp_path / "more" / "train", [0.5] * 5, seed=4, prefix="more")
    config = tiny_config(task, mix=(str(other.folder.parent),), weights=(1.0, 2.0), epochs=1, max_steps=4)
    events = []
    report = train_model(task, tmp_path / "run", config, events.append)
    (started,), (delivered,) = of_kind(events, Started), of_kind(events, Delivered)
    assert (started.train_utterances, started.steps_per_epoch, report.steps) == (17, 4, 4)
    assert (delivered.utterances, delivered.planned, delivered.is_complete) == (22, 22, True)
    for changes, message in (
        ({"mix": (), "weights": ()}, r"began with mix = \['.*more'\], now it is \[\]"),
        ({"weights": (1.0, 1.0)}, r"began with weights = \[1.0, 2.0\], now it is \[1.0, 1.0\]"),
    ):
        with pytest.raises(StateError, match=message):
            train_model(task, tmp_path / "run", replace_settings(config, changes))


def test_each_part_of_a_mixture_is_checked(task, tmp_path):
    empty = make_dataset(tmp_path / "empty", [])
    with pytest.raises(DatasetError, match=r"empty: the dataset is empty: nothing to train on"):
        train_model(task, tmp_path / "run", tiny_config(task, mix=(str(empty.folder),)))
    with pytest.raises(TrainingError, match=r"4 of 4 evaluation utterances are in .*eval too"):
        train_model(task, tmp_path / "run", tiny_config(task, mix=(str(task / "eval"),)))
