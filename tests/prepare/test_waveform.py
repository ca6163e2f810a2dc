import librosa
import numpy as np
import pytest

from tests.making import make_waveform
from whisper_shard.audio.recording import Recording
from whisper_shard.errors import AudioError
from whisper_shard.prepare.waveform import level_peak, normalize_peak, resample_and_trim, trim_silence


def prepare_waveform(recording, *, trim_db, peak):
    return level_peak(resample_and_trim(recording, trim_db=trim_db)[0], recording, peak=peak)


@pytest.mark.parametrize("trim_db", [10.0, 30.0, 60.0])
def test_trim_is_that_of_librosa(trim_db):
    rng = np.random.default_rng(0)
    for seed in range(60):
        quiet = rng.integers(0, 20_000, 2)
        waveform = make_waveform(rng.uniform(0.001, 3.0), seed=seed) * np.float32(rng.uniform(0.001, 1))
        edges = [rng.standard_normal(n).astype(np.float32) * np.float32(1e-4) for n in quiet]
        padded = np.concatenate([edges[0], waveform, edges[1]])
        expected, _ = librosa.effects.trim(padded, top_db=trim_db)
        np.testing.assert_array_equal(trim_silence(padded, trim_db=trim_db), expected)


@pytest.mark.parametrize("num_samples", [1, 511, 512, 513, 2048])
def test_trim_of_very_short_waveforms_is_that_of_librosa(num_samples):
    waveform = make_waveform(1.0)[:num_samples] + np.float32(0.1)
    expected, _ = librosa.effects.trim(waveform, top_db=30)
    np.testing.assert_array_equal(trim_silence(waveform, trim_db=30), expected)


def test_peak_is_normalized_on_a_copy():
    waveform = np.float32([0.1, -0.25, 0.2])
    np.testing.assert_allclose(normalize_peak(waveform, 1.0), [0.4, -1.0, 0.8], rtol=1e-6)
    np.testing.assert_array_equal(waveform, np.float32([0.1, -0.25, 0.2]))
    np.testing.assert_array_equal(normalize_peak(np.zeros(3, np.float32), 1.0), np.zeros(3))


def test_recording_is_left_as_it_was():
    for rate in (16_000, 44_100):
        recording = Recording(waveform=make_waveform(0.5) * np.float32(0.3), sample_rate=rate)
        kept = recording.waveform.copy()
        prepare_waveform(recording, trim_db=30, peak=1.0)
        np.testing.assert_array_equal(recording.waveform, kept)


def test_whole_path_can_be_switched_off():
    recording = Recording(waveform=make_waveform(0.5) * np.float32(0.3), sample_rate=16_000)
    np.testing.assert_array_equal(prepare_waveform(recording, trim_db=0, peak=0), recording.waveform)
    assert np.abs(prepare_waveform(recording, trim_db=30, peak=0.5)).max() == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("value", "reason", "message"),
    [
        (np.nan, "not_finite", "not finite"),
        (np.inf, "not_finite", "not finite"),
        (0.0, "silent", "below 1e-06"),
    ],
)
def test_waveforms_of_nothing_are_refused(value, reason, message):
    waveform = np.zeros(16_000, np.float32)
    waveform[100] = value
    with pytest.raises(AudioError, match=message) as caught:
        prepare_waveform(Recording(waveform=waveform, sample_rate=16_000), trim_db=30, peak=1)
    assert caught.value.reason == reason
