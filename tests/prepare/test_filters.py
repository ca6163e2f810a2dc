import numpy as np
import pytest

from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.errors import ConfigError
from whisper_shard.prepare.filters import Duration, SpeakingRate, TextLength, build_filters
from whisper_shard.utterance import ManifestRow, Utterance


def utterance(seconds, text="hello world"):
    row = ManifestRow(row=0, source="a.wav", path="/a.wav", transcript=text)
    return Utterance(key="k", waveform=np.zeros(round(seconds * 16_000), np.float32), text=text, row=row)


@pytest.mark.parametrize(
    ("seconds", "answer"),
    [
        (1.0, "too_short: 1.000 s, must be more than 1 s"),
        (1.001, None),
        (29.999, None),
        (30.0, "too_long: 30.000 s, must be less than 30 s"),
    ],
)
def test_duration_excludes_both_bounds(seconds, answer):
    assert Duration().reject(utterance(seconds)) == answer


def test_text_length():
    assert TextLength(min_chars=6).reject(utterance(2, "hello")) == "text_too_short: 5 characters, need 6"
    assert TextLength(min_chars=1, max_chars=4).reject(utterance(2, "hello")) == "text_too_long: 5 characters, limit 4"
    assert TextLength(min_chars=5, max_chars=5).reject(utterance(2, "hello")) is None


def test_speaking_rate():
    assert SpeakingRate().reject(utterance(10)) == "too_slow: 1.1 characters/s, need 3"
    assert SpeakingRate().reject(utterance(0.1)) == "too_fast: 110.0 characters/s, limit 30"
    assert SpeakingRate().reject(utterance(1)) is None
    with pytest.raises(ConfigError, match="min_chars_per_second 9 must lie below max_chars_per_second 3"):
        SpeakingRate(min_chars_per_second=9, max_chars_per_second=3)


def test_duration_comes_first_then_those_of_the_file():
    config = PrepareConfig(min_seconds=0.5, filters=({"kind": "speaking_rate"},))
    assert build_filters(config) == (Duration(min_seconds=0.5, max_seconds=30.0), SpeakingRate())
