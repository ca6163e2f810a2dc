"""The text of a recording of any length is that of transformers' long-form transcription, to the token."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.conftest import WHISPER_BASE
from tests.making import make_waveform
from whisper_shard.audio.decoders import DECODERS
from whisper_shard.audio.files import read_recording
from whisper_shard.audio.resample import resample
from whisper_shard.errors import ConfigError
from whisper_shard.inference import long_form
from whisper_shard.inference.fallback import FallbackRules
from whisper_shard.inference.long_form import HeardRecording, LongFormSettings, LongFormTranscriber
from whisper_shard.inference.spectrogram import SpectrogramBuilder
from whisper_shard.keyed_random import draw_words
from whisper_shard.model.log_mel import LogMel

DIGITS = WHISPER_BASE.parents[1] / "data" / "spoken-digits" / "audios"
GREEDY = FallbackRules(temperatures=(0.0,), max_compression_ratio=None, max_no_speech=None)
SETTINGS = LongFormSettings(language="en", fallback=GREEDY, max_new_tokens=40)


def hear(name, waveform, **changes):
    builder = SpectrogramBuilder(LogMel(80))
    builder.add(waveform)
    return HeardRecording(name=name, spectrogram=builder.finish(), **changes)


def transcribe(loaded, settings, recordings, batch=1):
    results = {}
    loaded.model.eval()
    for result in LongFormTranscriber(loaded, settings).transcribe(recordings, batch=batch):
        results.setdefault(result.name, []).append(result)
    return results


def segments_of(results):
    return [segment for result in results for segment in result.segments]


def texts(results):
    return [(segment.start, segment.end, segment.text) for segment in segments_of(results)]


def their_segments(loaded, waveform, **settings):
    """Return the segments of transformers that have a text, within the recording."""
    features = loaded.processor.feature_extractor(
        waveform, sampling_rate=16_000, return_tensors="pt", truncation=False, padding="longest"
    )
    found = loaded.model.generate(
        features.input_features, return_segments=True, return_timestamps=True, task="transcribe", **settings
    )
    end, length = loaded.model.generation_config.eos_token_id, len(waveform) // 160 / 100
    segments = []
    for each in found["segments"][0]:
        ids = [token for token in each["tokens"].tolist() if token < end]
        text = loaded.tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        segments.append((*(round(min(float(each[side]), length), 2) for side in ("start", "end")), text))
    return [segment for segment in segments if segment[2].strip()]


@pytest.mark.slow
@pytest.mark.parametrize("previous", [False, True])
def test_the_text_of_a_random_model_is_that_of_transformers(tiny, previous):
    waveform = make_waveform(100.0, seed=4)
    ours = transcribe(tiny, replace(SETTINGS, condition_on_previous=previous), [hear("a", waveform)])["a"]
    theirs = their_segments(
        tiny, waveform, language="en", max_new_tokens=40, temperature=(0.0,), condition_on_prev_tokens=previous
    )
    assert texts(ours) == theirs
    assert len(theirs) > 4
    assert [result.is_last for result in ours] == [False] * (len(ours) - 1) + [True]


@pytest.mark.slow
def test_recordings_side_by_side_have_the_text_they_have_alone(tiny):
    recordings = [hear(f"{seconds}", make_waveform(seconds, seed=5)) for seconds in (70.0, 3.0, 100.0, 31.0)]
    greedy = transcribe(tiny, SETTINGS, recordings)
    between = np.median([each.avg_logprob for found in greedy.values() for each in segments_of(found)]) + 1e-4
    rules = replace(GREEDY, temperatures=(0.0, 0.2, 0.8), min_avg_logprob=float(between))
    settings = replace(SETTINGS, fallback=rules, condition_on_previous=True)
    together = transcribe(tiny, settings, recordings, batch=3)
    assert list(together) == ["70.0", "3.0", "100.0", "31.0"]
    for recording in recordings:
        alone = transcribe(tiny, settings, [recording])[recording.name]
        assert texts(alone) == texts(together[recording.name])
    temperatures = {segment.temperature for found in together.values() for segment in segments_of(found)}
    assert len(temperatures) > 1, "no window was decoded again: the test compares too little"


@pytest.mark.slow
def test_another_seed_draws_other_tokens(tiny):
    settings = replace(SETTINGS, fallback=replace(GREEDY, temperatures=(1.0,)))
    recording = hear("a", make_waveform(40.0))
    first, again = (transcribe(tiny, settings, [recording])["a"] for _ in range(2))
    assert texts(first) == texts(again)
    assert texts(first) != texts(transcribe(tiny, replace(settings, seed=1), [recording])["a"])


@pytest.mark.slow
def test_known_windows_are_decoded_together_and_to_their_ends(tiny):
    windows = ((0, 900), (1200, 3900), (4000, 4100))
    recording = hear("a", make_waveform(50.0), windows=windows)
    results = transcribe(tiny, SETTINGS, [recording], batch=2)["a"]
    assert [result.position_seconds for result in results] == [9.0, 39.0, 50.0]
    for (start, _), result in zip(windows, results, strict=True):
        assert all(start / 100 <= segment.start <= segment.end for segment in result.segments)
    assert texts(results) == texts(transcribe(tiny, SETTINGS, [recording], batch=1)["a"])


def test_a_recording_without_speech_is_finished_at_once(tiny):
    (result,) = transcribe(tiny, SETTINGS, [hear("a", make_waveform(50.0), windows=())])["a"]
    assert result.is_last
    assert result.segments == ()
    assert result.position_seconds == 50.0


@pytest.mark.slow
def test_text_drawn_at_a_high_temperature_is_not_told_to_the_next_window(tiny):
    recording = hear("a", make_waveform(70.0))
    drawn = replace(SETTINGS, fallback=replace(GREEDY, temperatures=(0.6,)))
    assert texts(transcribe(tiny, replace(drawn, condition_on_previous=True), [recording])["a"]) == texts(
        transcribe(tiny, drawn, [recording])["a"]
    )


@pytest.mark.slow
def test_the_language_is_heard_in_the_first_window(tiny):
    recordings = [hear(name, make_waveform(40.0, seed=seed)) for seed, name in enumerate("ab")]
    results = transcribe(tiny, replace(SETTINGS, language=""), recordings, batch=2)
    for recording in recordings:
        window = recording.spectrogram.window(0, 3000, num_frames=3000)[None]
        token = int(tiny.model.detect_language(window)[0])
        assert {result.language for result in results[recording.name]} == {
            tiny.tokenizer.convert_ids_to_tokens(token).strip("<|>")
        }


def test_an_english_only_model_has_no_language(english):
    results = transcribe(english, replace(SETTINGS, language=""), [hear("a", make_waveform(31.0))])["a"]
    assert {result.language for result in results} == {""}


def test_a_batch_that_does_not_fit_into_memory_is_one_line(tiny, monkeypatch):
    def fail(*_args, **_kwargs):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(long_form, "decode_with_fallback", fail)
    with pytest.raises(ConfigError, match="1 windows at once do not fit into the memory of cpu; use a smaller --batch"):
        transcribe(tiny, SETTINGS, [hear("a", make_waveform(3.0))])


def digits(seconds, seed):
    """Return real recordings of digits, one after the other with pauses, at 16 kHz."""
    files = sorted(DIGITS.glob("*.wav"))
    decoders = [make() for make in DECODERS.values()]
    parts, length = [], 0
    for word in draw_words(1000, "digits", seed):
        recording = read_recording(str(files[int(word % len(files))]), decoders=decoders, max_seconds=30.0)
        pause = np.zeros(6400 + int(word >> np.uint64(20)) % 16_000, np.float32)
        parts += [resample(recording.waveform, recording.sample_rate), pause]
        length += len(parts[-1]) + len(parts[-2])
        if length >= seconds * 16_000:
            break
    return np.concatenate(parts)[: round(seconds * 16_000)]


def compare_with_transformers(loaded, seconds, seed):
    waveform = digits(seconds, seed)
    settings = replace(SETTINGS, fallback=FallbackRules(temperatures=(0.0,), max_compression_ratio=None))
    ours = transcribe(loaded, replace(settings, max_new_tokens=224), [hear("a", waveform)])["a"]
    theirs = their_segments(
        loaded, waveform, language="en", max_new_tokens=224, temperature=(0.0,), logprob_threshold=-1.0,
        no_speech_threshold=0.6,
    )  # fmt: skip
    assert texts(ours) == theirs
    assert len(theirs) > seconds / 30


@pytest.mark.slow
@pytest.mark.pretrained
def test_the_text_of_real_speech_is_that_of_transformers(whisper_base):
    torch.set_num_threads(1)
    compare_with_transformers(whisper_base, 45.0, 1)


@pytest.mark.pretrained
@pytest.mark.long
@pytest.mark.parametrize("seed", [1, 2])
def test_the_text_of_five_minutes_is_that_of_transformers(whisper_base, seed):
    compare_with_transformers(whisper_base, 300.0, seed)
