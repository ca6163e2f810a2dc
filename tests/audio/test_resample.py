import numpy as np
import pytest

from whisper_shard.audio.resample import resample


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100, 192_000])
def test_resample_keeps_the_tone(rate):
    time = np.arange(rate) / rate
    tone = np.sin(2 * np.pi * 1000 * time).astype(np.float32)
    resampled = resample(tone, rate)
    assert len(resampled) == 16_000
    expected = np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16_000)
    np.testing.assert_allclose(resampled[500:-500], expected[500:-500], atol=1e-3)


def test_waveform_that_has_the_rate_is_returned_as_it_is():
    waveform = np.zeros(100, np.float32)
    assert resample(waveform, 16_000) is waveform
    assert resample(waveform, 8_000, 8_000) is waveform
    assert len(resample(waveform, 8_000, 4_000)) == 50
