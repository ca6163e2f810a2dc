import numpy as np
import pytest
import torch
from transformers import WhisperFeatureExtractor

from tests.making import make_waveform
from tests.model.making import WatchPrecision, tf32_allowed
from whisper_shard.model.log_mel import LogMel
from whisper_shard.utterance import MAX_SAMPLES


def pad_to_30_seconds(waveform):
    padded = np.zeros(MAX_SAMPLES, np.float32)
    padded[: len(waveform)] = waveform
    return torch.from_numpy(padded)[None]


@pytest.mark.parametrize("n_mels", [80, 128])
@pytest.mark.parametrize("seconds", [0.5, 3.337, 29.999, 30.0])
def test_log_mel_equals_whispers_own(n_mels, seconds):
    waveform = make_waveform(seconds, seed=3)
    expected = WhisperFeatureExtractor(feature_size=n_mels)(waveform, sampling_rate=16000, return_tensors="pt")
    log_mel = LogMel(n_mels)(pad_to_30_seconds(waveform))
    assert log_mel.shape == (1, n_mels, 3000)
    torch.testing.assert_close(log_mel, expected.input_features, atol=1e-4, rtol=0)


@pytest.mark.parametrize("seconds", [0.48, 2.0, 7.77])
def test_short_window_sees_what_whisper_sees_of_zero_padded_audio(seconds):
    waveform = make_waveform(seconds, seed=4)
    whole = LogMel()(pad_to_30_seconds(waveform))
    short = LogMel()(torch.from_numpy(waveform)[None])
    assert short.shape[-1] == len(waveform) // 160
    torch.testing.assert_close(short, whole[..., : short.shape[-1]], atol=1e-5, rtol=0)


def test_rows_do_not_touch_each_other():
    loud = torch.from_numpy(make_waveform(2.0, seed=1))
    quiet = torch.from_numpy(make_waveform(2.0, seed=2)) * 1e-3
    together = LogMel()(torch.stack([loud, quiet]))
    torch.testing.assert_close(together[1:], LogMel()(quiet[None]), atol=1e-6, rtol=0)


def test_int16_means_the_same():
    waveform = make_waveform(1.0, seed=5)
    samples = torch.from_numpy(np.rint(waveform * 32768).clip(-32768, 32767).astype(np.int16))
    as_ints = LogMel()(samples[None])
    torch.testing.assert_close(as_ints, LogMel()(samples[None].float() / 32768), atol=0, rtol=0)


def test_log_mel_ignores_autocast():
    waveforms = torch.from_numpy(make_waveform(1.0))[None]
    plain = LogMel()(waveforms)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(LogMel()(waveforms), plain)


def test_log_mel_is_computed_without_tf32():
    waveforms = torch.from_numpy(make_waveform(1.0))[None]
    log_mel, watch = LogMel(), WatchPrecision()
    with tf32_allowed(), watch:
        log_mel(waveforms)
    assert watch.seen == {"highest"}
