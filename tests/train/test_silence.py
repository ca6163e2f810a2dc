"""Training data in which some utterances have no text: the model learns to write nothing there, and only there."""

import json

import numpy as np
import pytest
import torch

from tests.making import make_dataset
from tests.train.running import make_task, of_kind, tiny_config
from whisper_shard.dataset.views import filter_dataset
from whisper_shard.model.labels import Labeler
from whisper_shard.model.whisper import load_whisper
from whisper_shard.train.data import warn_of_lost_texts
from whisper_shard.train.events import Started
from whisper_shard.train.loop import train_model


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("silence")
    task = make_task(folder, train=12, evaluation=4)
    lengths = np.random.default_rng(3).uniform(0.5, 2.0, 6).tolist()
    make_dataset(
        folder / "noise",
        lengths,
        prefix="noise",
        seed=5,
        record={"text": ""},
        meta={"empty_texts": "keep"},
    )
    events = []
    config = tiny_config(
        task, mix=(str(folder / "noise"),), epochs=40, lr=5e-3, dropout=0.0, save_every=0, eval_every=99
    )
    train_model(task, folder / "run", config, events.append)
    return folder / "run", events


@pytest.mark.slow
def test_utterances_without_text_are_counted_before_training(trained):
    _, events = trained
    (started,) = of_kind(events, Started)
    assert (started.train_utterances, started.silent_utterances) == (18, 6)


@pytest.mark.slow
def test_the_saved_model_may_write_nothing(trained):
    run, _ = trained
    settings = json.loads((run / "model" / "generation_config.json").read_text())
    assert settings["eos_token_id"] not in (settings.get("begin_suppress_tokens") or [])


@pytest.mark.slow
def test_the_start_token_tells_silence_from_speech(trained):
    run, _ = trained
    loaded = load_whisper(str(run / "model"))
    labeler = Labeler(loaded.tokenizer)
    language = labeler.prefix_ids()[1]
    states = torch.zeros(1, 300, 16)
    with torch.inference_mode():
        logits = loaded.model(encoder_outputs=(states,), decoder_input_ids=torch.tensor([[labeler.start_id]])).logits
    likely = logits[0, 0].topk(2).indices.tolist()
    assert set(likely) == {labeler.no_speech_id, language}, "both were learned there, and nothing else"


def test_texts_that_may_be_lost_are_warned_of(tmp_path):
    kept = {"meta": {"empty_texts": "keep"}}
    silent = [make_dataset(tmp_path / name, [1.0] * 3, record={"text": ""}, **meta) for name, meta in
              (("lost", {}), ("kept", kept))]  # fmt: skip
    spoken = make_dataset(tmp_path / "spoken", [1.0])
    (message,) = warn_of_lost_texts([*silent, spoken])
    assert message.startswith(f"{silent[0].location}: 3 utterances have no text, and the model learns that nobody")
    filter_dataset(tmp_path / "spoken", tmp_path / "view", "num_chars > 0")  # what the line advises
