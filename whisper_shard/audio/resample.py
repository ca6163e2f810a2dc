"""Change of the sampling rate, for recordings in preparation and for sounds and speeds in augmentation."""

import numpy as np
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


class Resampler:
    """Resamples a recording that arrives in blocks, as `resample` does all of it at once.

    Args:
        sample_rate: Of the blocks, in Hz.
    """

    def __init__(self, sample_rate: int) -> None:
        self._stream = None
        if sample_rate != SAMPLE_RATE:
            self._stream = soxr.ResampleStream(sample_rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")

    def add(self, block: Waveform) -> Waveform:
        """Return what can be said of the recording at 16 kHz up to the end of a block."""
        if self._stream is None:
            return block
        resampled: Waveform = self._stream.resample_chunk(np.ascontiguousarray(block))
        return resampled

    def finish(self) -> Waveform:
        """Return the rest, after the last block."""
        if self._stream is None:
            return np.zeros(0, np.float32)
        rest: Waveform = self._stream.resample_chunk(np.zeros(0, np.float32), last=True)
        return rest
