import numpy as np
import pytest
import torch

from tests.making import make_waveform
from whisper_shard.inference.spectrogram import SpectrogramBuilder
from whisper_shard.model.log_mel import LogMel


def build(waveform, block):
    builder = SpectrogramBuilder(LogMel(80))
    for start in range(0, len(waveform), block):
        builder.add(waveform[start : start + block])
    return builder.finish()


@pytest.mark.parametrize("seconds", [0.5, 29.99, 30.0, 30.005, 95.25])
def test_windows_are_those_of_the_feature_extractor(seconds, tiny):
    waveform = make_waveform(seconds, seed=1)
    settings = {"truncation": False, "padding": "longest"} if seconds >= 30 else {}
    wanted = tiny.processor.feature_extractor(waveform, sampling_rate=16_000, return_tensors="pt", **settings)
    found = build(waveform, 70_000)
    assert found.num_frames == len(waveform) // 160
    assert found.seconds == pytest.approx(seconds, abs=0.01)
    for start in range(0, found.num_frames, 3000):
        window = found.window(start, min(start + 3000, found.num_frames), num_frames=3000)
        part = wanted.input_features[0, :, start : start + 3000]
        torch.testing.assert_close(window[:, : part.shape[1]], part, atol=2e-4, rtol=0)
        assert not window[:, part.shape[1] :].any()


def test_blocks_of_any_size_give_the_same():
    waveform = make_waveform(70.0, seed=2)
    whole = build(waveform, len(waveform))
    for block in (333_333, 999):
        torch.testing.assert_close(build(waveform, block).log_power, whole.log_power, atol=1e-5, rtol=0)


@pytest.mark.parametrize("num_samples", [1, 160, 199, 201, 400])
def test_a_very_short_recording_has_a_window(num_samples):
    found = build(np.full(num_samples, 0.1, np.float32), 64)
    assert found.num_frames == num_samples // 160
    assert found.window(0, found.num_frames, num_frames=3000).isfinite().all()


def test_a_window_may_be_followed_by_silence():
    waveform = make_waveform(40.0, seed=2)
    found = build(waveform, 640_000)
    plain = found.window(1000, 2000, num_frames=3000)
    silent = found.window(1000, 2000, num_frames=3000, then_silence=True)
    assert torch.equal(plain[:, :1000], silent[:, :1000])
    zeros = LogMel(80)(torch.cat([torch.from_numpy(make_waveform(40.0, seed=2)), torch.zeros(80_000)])[None])[
        0, :, -100:
    ]
    assert torch.equal(silent[:, 1000:], zeros[:, :1].expand(-1, 2000))
