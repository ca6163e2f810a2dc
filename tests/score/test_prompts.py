"""Scoring with the text before each utterance: the hypotheses of transformers with the same prompts."""

from dataclasses import replace

import pytest
import torch
from transformers.modeling_outputs import BaseModelOutput

from tests.inference.test_greedy import talkative
from tests.making import make_dataset
from tests.score.test_evaluate import make_batch
from whisper_shard.config.score import ScoreConfig
from whisper_shard.demo.tiny_whisper import make_tiny_whisper
from whisper_shard.errors import ConfigError
from whisper_shard.model.forward import encode
from whisper_shard.model.labels import Labeler
from whisper_shard.model.log_mel import LogMel
from whisper_shard.model.whisper import load_whisper
from whisper_shard.model.window import fit_window
from whisper_shard.score.evaluate import EvaluationSettings, evaluate_model
from whisper_shard.score.run import score_model

PROMPTS = ("one", None, "two three one", "three", "two one")
CAP = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prompted")
    make_tiny_whisper(
        folder, texts=["one two three"], width=32, encoder_layers=1, decoder_layers=1, heads=2, max_seconds=6
    )
    return folder


@pytest.fixture
def small(folder):
    loaded = talkative(load_whisper(str(folder)))
    loaded.model.eval()
    return loaded


def prompted_batch():
    seconds = [1.0, 2.0, 2.5, 3.0, 3.5]
    return replace(make_batch(seconds, ["one two three"] * len(seconds)), prompts=PROMPTS)


def texts_of(loaded, **settings):
    settings = EvaluationSettings(max_new_tokens=CAP, **settings)
    found = evaluate_model(loaded, [prompted_batch()], Labeler(loaded.tokenizer), settings)
    return [row.hypothesis for row in found.utterances]


@torch.no_grad()
def generate(loaded, **kwargs):
    """The texts of transformers, row by row."""
    batch, texts = prompted_batch(), []
    for row, prompt in enumerate(PROMPTS):
        waveform = fit_window(batch.waveforms[row : row + 1], 96_000)
        hidden = encode(loaded.model, LogMel()(waveform))
        given = {} if prompt is None else {"prompt_ids": loaded.processor.get_prompt_ids(prompt, return_tensors="pt")}
        tokens = loaded.model.generate(
            encoder_outputs=BaseModelOutput(last_hidden_state=hidden), language="en", task="transcribe",
            max_new_tokens=CAP, do_sample=False, **given, **kwargs,
        )[0].tolist()  # fmt: skip
        start = loaded.model.generation_config.decoder_start_token_id
        tokens = tokens[tokens.index(start) + 4 :] if start in tokens else tokens
        texts.append(Labeler(loaded.tokenizer).decode(tokens))
    return texts


@pytest.mark.parametrize("num_beams", [1, 3])
def test_prompted_hypotheses_are_those_of_generate(small, num_beams):
    ours = texts_of(small, with_prompts=True, num_beams=num_beams)
    assert ours == generate(small, num_beams=num_beams)
    assert ours != texts_of(small, num_beams=num_beams), "the prompts matter"


@pytest.mark.slow
def test_rows_are_decoded_as_each_would_be_alone(small):
    batch, labeler = prompted_batch(), Labeler(small.tokenizer)
    settings = EvaluationSettings(max_new_tokens=CAP, with_prompts=True)
    found = evaluate_model(small, [batch], labeler, settings)
    alone = [
        evaluate_model(
            small,
            [replace(make_batch([s], ["one two three"], first=row), prompts=(PROMPTS[row],))],
            labeler,
            settings,
        )
        for row, s in enumerate([1.0, 2.0, 2.5, 3.0, 3.5])
    ]
    assert [row.hypothesis for row in found.utterances] == [each.utterances[0].hypothesis for each in alone]
    assert [row.hit_cap for row in found.utterances] == [each.utterances[0].hit_cap for each in alone]
    assert found.loss == pytest.approx(sum(each.loss for each in alone) / 5, rel=1e-5)


@pytest.mark.slow
def test_texts_with_times_are_prompted_too(small):
    timed = texts_of(small, with_times=True, with_prompts=True)
    assert len(timed) == len(PROMPTS) and timed != texts_of(small, with_times=True)


def test_the_command_says_how_many_utterances_were_prompted(folder, tmp_path):
    data = make_dataset(tmp_path / "data", [1.0, 2.0], record={"prompt": "one two"})
    config = ScoreConfig(prompts=True, window="full", max_new_tokens=4, players=False, out=str(tmp_path / "out"))
    report = score_model(str(folder), data.location, config)
    assert report.settings["prompts"] == "of 2 utterances, from the data"
    plain = make_dataset(tmp_path / "plain", [1.0, 2.0])
    report = score_model(str(folder), plain.location, config)
    assert "--prompts: no utterance has a prompt in the data" in report.warnings


def test_confidence_is_measured_without_prompts():
    with pytest.raises(ValueError, match="confidence is measured without prompts"):
        EvaluationSettings(with_prompts=True, with_confidence=True)


def test_columns_hold_what_is_heard_without_prompts():
    with pytest.raises(ConfigError, match="--write-columns stores what is heard without prompts: leave out --prompts"):
        ScoreConfig(prompts=True, write_columns="first")
