import numpy as np
import pytest

from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.errors import ConfigError
from whisper_shard.prepare.filters import Duration, SpeakingRate, TextLength, build_filters
from whisper_shard.utterance import ManifestRow, Rejection, Utterance


def utterance(seconds, text="hello world"):
    row = ManifestRow(row=0, source="a.wav", path="/a.wav", transcript=text)
    return Utterance(key="k", waveform=np.zeros(round(seconds * 16_000), np.float32), text=text, row=row)


def rejected(reason, detail, *, seconds=2.0):
    return Rejection(row=0, source="a.wav", reason=reason, detail=detail, seconds=seconds)


@pytest.mark.parametrize(
    ("seconds", "rejection"),
    [
        (1.0, rejected("too_short", "1.000 s, must be more than 1 s", seconds=1.0)),
        (1.001, None),
        (29.999, None),
        (30.0, rejected("too_long", "30.000 s, must be less than 30 s", seconds=30.0)),
    ],
)
def test_duration_excludes_both_bounds(seconds, rejection):
    assert Duration().reject(utterance(seconds)) == rejection


def test_text_length():
    hello = utterance(2, " hello ")
    assert TextLength(min_chars=6).reject(hello) == rejected("text_too_short", "5 characters, need 6")
    assert TextLength(min_chars=1, max_chars=4).reject(hello) == rejected("text_too_long", "5 characters, limit 4")
    assert TextLength(min_chars=5, max_chars=5).reject(hello) is None


def test_speaking_rate():
    slow = rejected("too_slow", "1.1 characters/s, need 3", seconds=10.0)
    assert SpeakingRate().reject(utterance(10)) == slow
    assert SpeakingRate().reject(utterance(0.1)).reason == "too_fast"
    assert SpeakingRate().reject(utterance(0.1)).detail == "110.0 characters/s, limit 30"
    assert SpeakingRate().reject(utterance(1)) is None
    with pytest.raises(ConfigError, match="min_chars_per_second 9 must lie below max_chars_per_second 3"):
        SpeakingRate(min_chars_per_second=9, max_chars_per_second=3)


def test_duration_comes_first_then_those_of_the_file():
    config = PrepareConfig(min_seconds=0.5, filters=({"kind": "speaking_rate"},))
    assert build_filters(config) == (Duration(min_seconds=0.5, max_seconds=30.0), SpeakingRate())
