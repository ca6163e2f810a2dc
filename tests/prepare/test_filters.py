from dataclasses import replace

import numpy as np
import pytest

from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.errors import ConfigError
from whisper_shard.prepare.filters import (
    Bandwidth,
    Clipping,
    Duration,
    Languages,
    Level,
    Noise,
    RepeatedWords,
    SampleRate,
    SpeakingRate,
    SpeechShare,
    TextLength,
    build_filters,
)
from whisper_shard.utterance import ManifestRow, Quality, Rejection, Utterance


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
        (
            30.0,
            rejected(
                "too_long",
                "30.000 s, must be less than 30 s; subtitles beside it, offset and duration, "
                "or (where it has no text) --segment vad divide it",
                seconds=30.0,
            ),
        ),
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


GOOD = Quality(
    peak=0.5, rms_db=-25.0, snr_db=30.0, clipped_fraction=0.0, speech_fraction=0.8, bandwidth_hz=8000.0,
    chars_per_second=10.0, channel_correlation=None,
)  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "change", "rejection"),
    [
        ("level", {"rms_db": -60.04}, ("too_quiet", "-60.0 dBFS, need -50")),
        ("level", {"rms_db": 1.0}, ("too_loud", "1.0 dBFS, limit 0")),
        ("noise", {"snr_db": 4.2}, ("noisy", "signal-to-noise ratio 4.2 dB, need 10")),
        ("speech_share", {"speech_fraction": 0.1}, ("little_speech", "10.0% speech, need 30.0%")),
        ("clipping", {"clipped_fraction": 0.02}, ("clipped", "2.00% of the samples, limit 0.10%")),
        ("bandwidth", {"bandwidth_hz": 3400.0}, ("narrow_band", "3400 Hz, need 3500")),
    ],
)
def test_filters_of_the_quality(kind, change, rejection):
    (_, step) = build_filters(PrepareConfig(filters=({"kind": kind},)))
    assert step.reject(replace(utterance(2.0), quality=GOOD)) is None
    assert step.reject(replace(utterance(2.0), quality=replace(GOOD, **change))) == rejected(*rejection)


def test_sampling_rate_of_the_recording():
    assert SampleRate().reject(utterance(2.0)) is None
    low = replace(utterance(2.0), recording_rate=8_000)
    assert SampleRate().reject(low) == rejected("low_sample_rate", "8000 Hz, need 16000")


@pytest.mark.parametrize(
    ("language", "rejection"),
    [
        ("EN", None),
        ("de", rejected("other_language", "de, only en, fr are kept")),
        (None, rejected("no_language", "the row has none")),
    ],
)
def test_languages(language, rejection):
    known = utterance(2.0)
    known = replace(known, row=replace(known.row, language=language))
    assert Languages(languages=("en", "fr")).reject(known) == rejection


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("no no no no", None),
        ("no no no no no", "no"),
        ("well " + "thank you " * 6 + "all", "thank you"),
        ("a b c d " * 4, None),
        ("a b c d " * 5, "a b c d"),
        ("a b c d e " * 9, None),
        ("zero one two three four five", None),
        ("", None),
    ],
)
def test_repeated_words(text, phrase):
    found = RepeatedWords().reject(utterance(2.0, text))
    if phrase is None:
        assert found is None
    else:
        assert found == rejected("repeated_words", f"{phrase!r} more than 4 times in a row")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ({"kind": "languages", "languages": "en"}, r"languages is 'en'; give a list"),
        ({"kind": "repeated_words", "max_words": 0}, r"max_words 0 must be 1 to 20"),
    ],
)
def test_wrong_parameters(kind, message):
    with pytest.raises(ConfigError, match=message):
        build_filters(PrepareConfig(filters=(kind,)))


def test_each_flag_is_a_filter():
    config = PrepareConfig(
        min_chars_per_second=2, max_chars_per_second=25, languages=("en",), min_sample_rate=8000, min_bandwidth_hz=3000,
        max_clipped_fraction=0.01, min_rms_db=-40, min_speech_fraction=0.2, min_snr_db=5,
    )  # fmt: skip
    assert build_filters(config)[1:] == (
        SpeakingRate(min_chars_per_second=2, max_chars_per_second=25),
        Languages(languages=("en",)),
        SampleRate(min_sample_rate=8000),
        Bandwidth(min_bandwidth_hz=3000),
        Clipping(max_clipped_fraction=0.01),
        Level(min_rms_db=-40),
        SpeechShare(min_speech_fraction=0.2),
        Noise(min_snr_db=5),
    )
    assert build_filters(PrepareConfig()) == (Duration(),)


def test_one_end_of_the_rate_is_enough():
    (_, step) = build_filters(PrepareConfig(max_chars_per_second=5))
    assert step.reject(utterance(2.0, "a")) is None
    assert step.reject(utterance(1.0)).reason == "too_fast"


def test_a_filter_needs_what_is_measured():
    with pytest.raises(ConfigError, match=r"--no-quality: the filter noise needs what is not measured then"):
        build_filters(PrepareConfig(quality=False, min_snr_db=5))
