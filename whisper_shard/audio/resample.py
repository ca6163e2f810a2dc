"""Change of the sampling rate, for recordings in preparation and for sounds and speeds in augmentation."""

import soxr

from whisper_shard.utterance import SAMPLE_RATE, Waveform


def resample(waveform: Waveform, sample_rate: float, new_rate: float = SAMPLE_RATE) -> Waveform:
    """Return a waveform of ``sample_rate`` Hz at ``new_rate`` Hz; the same array where both are equal.

    Uses soxr's quality "HQ", which is also librosa's default.
    """
    if sample_rate == new_rate:
        return waveform
    resampled: Waveform = soxr.resample(waveform, sample_rate, new_rate, quality="HQ")
    return resampled
