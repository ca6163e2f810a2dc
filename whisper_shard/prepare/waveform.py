"""A recording becomes the waveform that is stored: 16 kHz, trimmed, levelled."""

import librosa
import numpy as np
import soxr

from whisper_shard.errors import AudioError
from whisper_shard.formats.codecs import Recording
from whisper_shard.utterance import SAMPLE_RATE, Waveform

TRIM_FRAME = 2048
"""Samples over which the level is measured. Source: default of librosa.effects.trim."""
TRIM_HOP = 512
"""Samples between two measurements. Source: default of librosa.effects.trim."""

SILENCE = 1e-6
"""A recording whose root mean square is below this (-120 dBFS) has nothing in it."""


def prepare_waveform(recording: Recording, *, trim_db: float, peak: float) -> Waveform:
    """Resample to 16 kHz, trim silence at both ends, and scale to the given peak.

    Args:
        recording: Mono, at any rate.
        trim_db: Frames this many dB below the loudest are silence; 0 keeps everything.
        peak: Largest absolute sample afterwards; 0 leaves the level alone.

    Raises:
        AudioError: Not a number somewhere (``not_finite``), or nothing but zeros (``silent``).
    """
    waveform = resample(recording)
    energy = float(waveform @ waveform)
    if not np.isfinite(energy):
        raise AudioError("holds samples that are not finite numbers, or absurdly large", reason="not_finite")
    if energy <= SILENCE**2 * len(waveform):
        raise AudioError(f"its level is below {SILENCE:.0e} of full scale", reason="silent")
    trimmed = trim_silence(waveform, trim_db=trim_db) if trim_db else waveform
    return normalize_peak(trimmed, peak) if peak else trimmed


def resample(recording: Recording) -> Waveform:
    """Return the recording at 16 kHz; soxr's "HQ" quality, which is also librosa's default."""
    if recording.sample_rate == SAMPLE_RATE:
        return recording.waveform
    waveform: Waveform = soxr.resample(recording.waveform, recording.sample_rate, SAMPLE_RATE, quality="HQ")
    return waveform


def trim_silence(waveform: Waveform, *, trim_db: float) -> Waveform:
    """Cut silence from both ends, where ``librosa.effects.trim`` would with the same ``top_db``.

    The energy of each frame comes from four sums over blocks of one hop, which touches every sample once instead of
    four times and needs none of the compiled parts of librosa.

    Source: librosa.effects.trim, https://librosa.org/doc/latest/generated/librosa.effects.trim.html
    """
    level_db = librosa.power_to_db(_frame_energy(waveform), ref=np.max, amin=1e-10, top_db=None)
    loud = np.flatnonzero(level_db > -trim_db)
    return waveform[loud[0] * TRIM_HOP : (loud[-1] + 1) * TRIM_HOP]


def normalize_peak(waveform: Waveform, peak: float) -> Waveform:
    """Scale so that the largest absolute sample is ``peak``; zeros stay zeros."""
    loudest = max(waveform.max(), -waveform.min())
    return waveform * np.float32(peak / loudest) if loudest > 0 else waveform


def _frame_energy(waveform: Waveform) -> Waveform:
    """Return the mean square of each centred frame, shape (1 + num_samples // TRIM_HOP,)."""
    num_whole = len(waveform) // TRIM_HOP
    blocks = waveform[: num_whole * TRIM_HOP].reshape(num_whole, TRIM_HOP)
    rest = waveform[num_whole * TRIM_HOP :]
    # Frame i reaches from block i-2 to block i+1; what lies outside of the waveform counts as zero.
    sums = np.zeros(num_whole + 4, np.float32)
    sums[2 : num_whole + 2] = np.einsum("ij,ij->i", blocks, blocks)
    sums[num_whole + 2] = rest @ rest
    return (sums[:-3] + sums[1:-2] + sums[2:-1] + sums[3:]) / np.float32(TRIM_FRAME)
