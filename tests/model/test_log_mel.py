import numpy as np
import pytest
import torch
from transformers import WhisperFeatureExtractor

from tests.making import make_waveform
from whisper_shard.model.log_mel import LogMel
from whisper_shard.model.spec_augment import spec_augment
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


def make_log_mel(rows=4, frames=400):
    return torch.randn(rows, 80, frames, generator=torch.Generator().manual_seed(0))


def test_spec_augment_hides_only_real_frames():
    log_mel, num_frames = make_log_mel(), torch.tensor([400, 250, 60, 3])
    masked = spec_augment(log_mel, num_frames, seeds=[1, 2, 3, 4], time_masks=6, mel_masks=6)
    changed = masked != log_mel
    for row, frames in enumerate(num_frames.tolist()):
        assert not changed[row, :, frames:].any()
    assert changed[0].float().mean() > 0.02


def test_spec_augment_leaves_its_input_alone():
    log_mel = make_log_mel()
    before = log_mel.clone()
    spec_augment(log_mel, torch.full((4,), 400), seeds=[1, 2, 3, 4])
    assert torch.equal(log_mel, before)


def test_spec_augment_depends_on_the_seed_of_the_row_alone():
    log_mel, num_frames = make_log_mel(), torch.tensor([400, 300, 200, 100])
    together = spec_augment(log_mel, num_frames, seeds=[5, 6, 7, 8])
    alone = spec_augment(log_mel[2:3, :, :220], num_frames[2:3], seeds=[7])
    torch.testing.assert_close(together[2:3, :, :220], alone, atol=1e-6, rtol=0)
    assert torch.equal(spec_augment(log_mel, num_frames, seeds=[5, 6, 7, 8]), together)
    assert not torch.equal(spec_augment(log_mel, num_frames, seeds=[5, 6, 9, 8])[2], together[2])


def test_time_bands_keep_to_their_longest():
    log_mel = make_log_mel(rows=64, frames=1000)
    masked = spec_augment(
        log_mel, torch.full((64,), 1000), seeds=range(64), time_masks=1, mel_masks=0, time_seconds=0.5, time_share=1.0
    )
    widths = (masked != log_mel).any(dim=1).sum(dim=1)
    assert widths.max() <= 50
    assert widths.max() > 35
    short = spec_augment(log_mel, torch.full((64,), 100), seeds=range(64), time_masks=1, mel_masks=0, time_share=0.1)
    assert (short != log_mel).any(dim=1).sum(dim=1).max() <= 10


def test_fill_is_the_mean_or_silence():
    log_mel, num_frames = make_log_mel(rows=1), torch.tensor([200])
    kwargs = {"seeds": [3], "time_masks": 0, "mel_masks": 1, "mel_bins": 40}
    mean = spec_augment(log_mel, num_frames, **kwargs)
    hidden = mean != log_mel
    torch.testing.assert_close(mean[hidden].unique(), log_mel[..., :200].mean()[None])
    silence = spec_augment(log_mel, num_frames, **kwargs, fill="silence")
    assert (silence[hidden] == log_mel.min()).all()
