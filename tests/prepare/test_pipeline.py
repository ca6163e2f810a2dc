import re
from dataclasses import replace
from pathlib import PurePosixPath

import numpy as np
import pytest
import soundfile

from tests.making import make_waveform
from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.dataset.schema import KEY_PATTERN
from whisper_shard.errors import ConfigError
from whisper_shard.prepare.pipeline import build_pipeline, make_key, prepare_row
from whisper_shard.utterance import ManifestRow, Rejection, Utterance


def row(path, transcript="Hello, World!", number=3):
    return ManifestRow(row=number, source=str(path), path=str(path), transcript=transcript)


def test_row_becomes_an_utterance(tmp_path):
    soundfile.write(tmp_path / "a.wav", make_waveform(2.0) * 0.2, 16_000)
    utterance = prepare_row(row(tmp_path / "a.wav"), build_pipeline(PrepareConfig()))
    assert isinstance(utterance, Utterance)
    assert (utterance.text, utterance.recording_seconds) == ("hello world", 2.0)
    assert np.abs(utterance.waveform).max() == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("transcript", "seconds", "reason", "detail"),
    [
        ("Hi!", 2.0, "text_too_short", "2 characters, need 6"),
        ("Hello, World!", 0.5, "too_short", "0.500 s, must be more than 1 s"),
        ("Hello, World!", None, "missing_file", "cannot be opened: No such file or directory"),
    ],
)
def test_row_becomes_a_rejection_with_its_values(tmp_path, transcript, seconds, reason, detail):
    if seconds:
        soundfile.write(tmp_path / "a.wav", make_waveform(seconds), 16_000)
    rejection = prepare_row(row(tmp_path / "a.wav", transcript), build_pipeline(PrepareConfig(trim_db=0)))
    assert isinstance(rejection, Rejection)
    assert (rejection.row, rejection.reason, rejection.detail) == (3, reason, detail)


def test_recordings_without_speech_are_kept_whole_where_that_is_wanted(tmp_path):
    noise = 0.002 * np.random.default_rng(0).standard_normal(48_000)
    noise[24_000:24_800] *= 100.0  # a door
    soundfile.write(tmp_path / "a.wav", noise, 16_000)
    config = PrepareConfig(empty_texts="keep", min_chars_per_second=2.0)
    utterance = prepare_row(row(tmp_path / "a.wav", "  "), build_pipeline(config))
    assert (utterance.text, utterance.seconds) == ("", 3.0)
    assert np.abs(utterance.waveform).max() == pytest.approx(1.0)
    assert prepare_row(row(tmp_path / "a.wav", "Hello, World!"), build_pipeline(PrepareConfig())).reason == "too_short"
    for text, settings in (("  ", {}), ("?!", {"empty_texts": "keep"})):
        rejection = prepare_row(row(tmp_path / "a.wav", text), build_pipeline(PrepareConfig(**settings)))
        assert rejection.reason == "text_too_short"
        assert rejection.detail.startswith("0 characters, need 6; if nobody speaks there and the transcript is empty: ")


def test_an_empty_transcript_cannot_mean_two_things():
    with pytest.raises(
        ConfigError, match=r"--empty-texts keep with --segment vad: an empty transcript would mean both"
    ):
        PrepareConfig(empty_texts="keep", segment="vad")


def test_a_text_too_long_for_the_decoder_is_rejected_before_its_recording_is_opened(tmp_path, tiny_folder):
    pipeline = build_pipeline(PrepareConfig(tokenizer=str(tiny_folder)))
    rejection = prepare_row(row(tmp_path / "absent.wav", "nine hundred " * 400), pipeline)
    assert rejection.reason == "too_many_tokens"
    assert re.fullmatch(r"[0-9]+ tokens with the prefix, limit 448", rejection.detail)
    assert prepare_row(row(tmp_path / "absent.wav", "nine hundred"), pipeline).reason == "missing_file"


@pytest.mark.parametrize(("prompt", "kept"), [("Good Morning!", "good morning"), ("?!", None), (None, None)])
def test_prompts_are_normalized_like_texts(tmp_path, prompt, kept):
    soundfile.write(tmp_path / "a.wav", make_waveform(2.0), 16_000)
    prompted = replace(row(tmp_path / "a.wav"), extra={"prompt": prompt, "topic": "A-B"})
    utterance = prepare_row(prompted, build_pipeline(PrepareConfig()))
    assert utterance.row.extra.get("prompt") == kept
    assert utterance.row.extra["topic"] == "A-B"


def test_a_rule_without_end_costs_one_row(tmp_path, monkeypatch):
    monkeypatch.setattr("whisper_shard.text.rules.RULE_SECONDS", 0.05)
    rules = ({"pattern": r"(a|aa)+$", "replacement": ""},)
    pipeline = build_pipeline(PrepareConfig(text_style="regex", text_rules=rules))
    rejection = prepare_row(row(tmp_path / "absent.wav", "a" * 60 + "!"), pipeline)
    assert rejection.reason == "text_rule_timeout"


def test_keys_are_legal_unique_and_readable():
    sources = ["a.wav", "b/a.wav", "x.y.z.mp3", "Grüße an alle.wav", "", ".hidden", "l" * 300 + ".wav", "a\nb.wav"]
    keys = [make_key(row(source, number=i)) for i, source in enumerate(sources)]
    assert all(KEY_PATTERN.fullmatch(key) for key in keys)
    assert len(set(keys)) == len(keys)
    assert re.fullmatch(r"000000002-x_y_z-[0-9a-f]{8}", keys[2])
    assert max(map(len, keys)) == 79
    assert make_key(row("a.wav", number=0)) == keys[0]
    assert make_key(row("a.wav", transcript="other", number=0)) != keys[0]


@pytest.mark.parametrize("name", ["a.wav", "a.b.wav", ".hidden", "a.", "a.b.", "..x", "a", "folder.d/b"])
def test_key_has_the_stem_of_the_path(name):
    assert make_key(row(name)).split("-")[1] == re.sub(r"[^A-Za-z0-9_]+", "_", PurePosixPath(name).stem)


def test_unknown_decoder_is_named():
    with pytest.raises(ConfigError, match=r"decoders\[0\]: unknown kind 'soundfiel'; did you mean 'soundfile'"):
        build_pipeline(PrepareConfig(decoders=({"kind": "soundfiel"},)))
