"""The utterance whose silence is borrowed."""

import numpy as np
import pytest
import torch

from tests.making import make_dataset
from tests.train.running import tiny_config
from whisper_shard.config.settings import replace_settings
from whisper_shard.config.train import TrainConfig
from whisper_shard.errors import DatasetError, StateError, TrainingError
from whisper_shard.train.loop import train_model
from whisper_shard.train.silence_source import find_silence_source

SKIP = replace_settings(TrainConfig(), {"bad_record": "skip"})


def test_it_is_a_short_utterance_and_always_the_same(tmp_path):
    dataset = make_dataset(tmp_path, [2.0, 0.5, 1.0])
    source = find_silence_source([dataset])
    assert (source.key, source.seconds, source.waveform.shape) == ("utt00001", 0.5, (1, 8000))
    assert torch.equal(source.waveform, find_silence_source([dataset]).waveform)


def test_it_is_near_the_first_percentile_of_all_datasets(tmp_path):
    first = make_dataset(tmp_path / "first", [3.0] * 150)
    second = make_dataset(tmp_path / "second", [0.2, 0.6, 0.7], prefix="more")
    assert find_silence_source([first, second]).key == "more00001", "not the shortest"
    assert find_silence_source([second, first]).dataset == str(second.location)


def test_noise_without_speech_is_no_source(tmp_path):
    spoken = make_dataset(tmp_path / "spoken", [2.0, 0.7, 1.0])
    noise = make_dataset(tmp_path / "noise", [0.3] * 200, prefix="noise", record={"text": ""})
    assert find_silence_source([noise, spoken]).key == "utt00001"


def test_it_is_no_longer_than_the_shortest_window_so_that_nothing_is_missing_between(tmp_path):
    dataset = make_dataset(tmp_path, [25.0, 29.0])
    assert find_silence_source([dataset]).seconds == 1.0
    config = replace_settings(TrainConfig(), {"min_window_seconds": 0.4})
    assert find_silence_source([dataset], config).seconds == 0.4


def test_nearly_silent_utterances_are_passed_over(tmp_path, monkeypatch):
    from whisper_shard.train import silence_source

    dataset = make_dataset(tmp_path, [0.5, 0.6, 2.0])
    decode = silence_source.decode_audio
    monkeypatch.setattr(
        silence_source, "decode_audio", lambda raw: decode(raw) // (9999 if raw.num_samples < 9e3 else 1)
    )
    assert find_silence_source([dataset]).key == "utt00001"
    monkeypatch.setattr(silence_source, "decode_audio", lambda raw: np.zeros_like(decode(raw)))
    with pytest.raises(TrainingError, match=r"no silence to borrow: .* nearly silent, below -60 dB .*--beyond nothing"):
        find_silence_source([dataset])


def damage(dataset, row):
    shard = dataset.shard_path(0)
    content = bytearray(shard.read_bytes())
    content[int(dataset.columns("audio_offset")["audio_offset"][row]) + 200] ^= 1
    shard.write_bytes(content)


def test_a_damaged_one_is_skipped_only_if_damage_is(tmp_path):
    dataset = make_dataset(tmp_path, [0.5, 0.6])
    lengths = dataset.columns("num_samples")["num_samples"]
    damage(dataset, int(lengths.argmin()))
    with pytest.raises(DatasetError, match="crc32"):
        find_silence_source([dataset])
    assert find_silence_source([dataset], SKIP).seconds == 0.6
    damage(dataset, int(lengths.argmax()))
    with pytest.raises(DatasetError, match=r"all candidates for the silence source are damaged; the last: .* crc32"):
        find_silence_source([dataset], SKIP)


@pytest.mark.slow
def test_a_run_goes_on_with_its_own_silence_only(task, tmp_path, monkeypatch):
    from whisper_shard.train import silence_source

    config = tiny_config(task, max_steps=2)
    train_model(task, tmp_path / "run", config)
    (tmp_path / "run" / "report.json").unlink()
    monkeypatch.setattr(silence_source, "PERCENTILE", 0.9)
    message = (
        r"the run began with the silence after utt\d+ \w+, and now that after utt\d+ \w+ would be borrowed; restore"
    )
    with pytest.raises(StateError, match=message):
        train_model(task, tmp_path / "run", config)
