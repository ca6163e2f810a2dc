"""What is refused before anything is computed."""

import shutil

import numpy as np
import pytest

from tests.making import make_dataset
from tests.train.running import of_kind, tiny_config
from whisper_shard.config.settings import replace_settings
from whisper_shard.errors import DatasetError, StateError, TrainingError
from whisper_shard.model.labels import Labeler
from whisper_shard.train.data import check_labels, open_corpora
from whisper_shard.train.events import Delivered, Started
from whisper_shard.train.loop import train_model


def test_eval_data_is_found_beside_or_inside(task, tmp_path):
    for start in (task, task / "train"):
        corpora = open_corpora(start, tiny_config(task))
        assert corpora.train.num_utterances == 12
        assert corpora.eval.num_utterances == 4
    shutil.copytree(task / "train", tmp_path / "alone")
    shutil.copytree(task / "eval", tmp_path / "alone" / "eval")
    assert open_corpora(tmp_path / "alone", tiny_config(task)).eval.num_utterances == 4
    assert open_corpora(tmp_path / "alone", tiny_config(task, eval=str(task))).eval.folder == task / "eval"


def test_missing_eval_data_is_named(task, tmp_path):
    shutil.copytree(task / "train", tmp_path / "train")
    with pytest.raises(DatasetError, match=r"no evaluation data: neither .* is a finished dataset; give --eval"):
        open_corpora(tmp_path / "train", tiny_config(task))


def test_data_without_texts_is_refused(task, tmp_path):
    data = make_dataset(tmp_path / "mute", [1.0, 2.0], record={"text": ""})
    assert data.num_utterances == 2
    with pytest.raises(DatasetError, match="mute: none of its utterances has a text; a model writes them"):
        open_corpora(tmp_path / "mute", tiny_config(task, eval=str(task / "eval")))
    with pytest.raises(DatasetError, match="none of its utterances has a text"):
        open_corpora(task / "train", tiny_config(task, eval=str(tmp_path / "mute")))


def test_empty_data_is_refused(task, tmp_path):
    make_dataset(tmp_path / "empty", [])
    with pytest.raises(DatasetError, match="the dataset is empty: nothing to train on"):
        open_corpora(tmp_path / "empty", tiny_config(task, eval=str(task / "eval")))
    with pytest.raises(TrainingError, match="the evaluation set is empty; prepare with --eval-fraction above 0"):
        open_corpora(task / "train", tiny_config(task, eval=str(tmp_path / "empty")))


def test_evaluation_data_known_from_training_is_refused(task, tmp_path):
    with pytest.raises(TrainingError, match=r"12 of 12 evaluation .* first is utt00000 \(is the training data"):
        open_corpora(task / "train", tiny_config(task, eval=str(task / "train")))
    make_dataset(tmp_path / "keys", [1.0, 1.2], seed=5)
    with pytest.raises(TrainingError, match=r"2 of 2 evaluation utterances are in .* too, the first is utt00000"):
        open_corpora(task / "train", tiny_config(task, eval=str(tmp_path / "keys")))
    seconds = np.random.default_rng(0).uniform(0.3, 2.5, 12).tolist()
    make_dataset(tmp_path / "audio", [9.0, *seconds[1:2]], prefix="renamed")
    with pytest.raises(
        TrainingError, match=r"1 of 2 evaluation utterances .*first is renamed00001 .*remove the duplicates"
    ):
        open_corpora(task / "train", tiny_config(task, eval=str(tmp_path / "audio")))


def test_texts_too_long_for_the_decoder_are_named(tmp_path, tiny):
    data = make_dataset(tmp_path / "long", [1.0] * 5, text="xyzzy! " * 150)
    with pytest.raises(
        TrainingError,
        match=r"5 utterances have texts of more than 448 tokens.*utt00000, utt00001, utt00002 \.\.\..*\"text_length\"",
    ):
        check_labels(data, Labeler(tiny.tokenizer))
    check_labels(make_dataset(tmp_path / "fits", [1.0], text="zero " * 100), Labeler(tiny.tokenizer))


def test_times_need_room_too(tmp_path, tiny):
    labeler = Labeler(tiny.tokenizer)
    text = "q" * 900
    while len(labeler.prefix_ids()) + len(tiny.tokenizer.encode(f" {text}", add_special_tokens=False)) > 448:
        text = text[:-1]
    data = make_dataset(tmp_path / "data", [1.0], text=text)
    check_labels(data, labeler)
    with pytest.raises(TrainingError, match="1 utterances have texts of more than 448 tokens"):
        check_labels(data, labeler, timestamps=True)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (
            {"language": "klingon"},
            r"utterance utt00000: language 'klingon': the model has no token <\|klingon\|>",
        ),
        ({"task": "sing"}, r"utterance utt00000: task 'sing' is unknown; use transcribe or translate; it is the first"),
    ],
)
def test_unknown_language_or_task_is_named_before_training(tmp_path, tiny, record, message):
    data = make_dataset(tmp_path / "data", [1.0, 1.0], record=record)
    with pytest.raises(TrainingError, match=message):
        check_labels(data, Labeler(tiny.tokenizer))
    check_labels(make_dataset(tmp_path / "german", [1.0], record={"language": "de-DE"}), Labeler(tiny.tokenizer))


@pytest.mark.slow
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
