"""A recording becomes the waveform that is stored: at 16 kHz, trimmed, with a normalized peak."""

import numpy as np

from whisper_shard.audio.recording import Recording
from whisper_shard.audio.resample import resample
from whisper_shard.errors import AudioError
from whisper_shard.utterance import Waveform

TRIM_FRAME = 2048
"""Samples over which the level is measured. Source: default of librosa.effects.trim."""
TRIM_HOP = 512
"""Samples between two measurements. Source: default of librosa.effects.trim."""
_FLOOR = np.float32(1e-10 * TRIM_FRAME)
"""Lowest energy of a frame. Source: default ``amin`` of librosa.amplitude_to_db, squared."""
SILENCE = 1e-6
"""A recording whose root mean square is below this (-120 dBFS) is silent."""


def resample_and_trim(recording: Recording, *, trim_db: float) -> tuple[Waveform, int]:
    """Resample to 16 kHz and trim silence at both ends; the result may share memory with the recording.

    Args:
        recording: Mono, at any rate.
        trim_db: Frames more than this many dB below the loudest are silence; 0: do not trim.

    Returns:
        The waveform, and how many samples at 16 kHz were trimmed before it.

    Raises:
        AudioError: A sample is not a finite number (``not_finite``), or the recording is silent (``silent``).
    """
    waveform = resample(recording.waveform, recording.sample_rate)
    energy = _hop_energy(waveform)
    total = float(np.add.reduce(energy))
    if not np.isfinite(total):
        raise AudioError("holds samples that are not finite numbers, or absurdly large", reason="not_finite")
    if total <= SILENCE**2 * len(waveform):
        raise AudioError(f"its level is below {SILENCE:.0e} of full scale", reason="silent")
    loud = _loud_part(energy, trim_db) if trim_db else slice(0, None)
    return waveform[loud], loud.start


def level_peak(trimmed: Waveform, recording: Recording, *, peak: float) -> Waveform:
    """Scale what `resample_and_trim` returned so that its largest absolute sample is ``peak``; 0: keep the level."""
    if not peak:
        return trimmed
    # The result of resampling is used nowhere else, and overwriting it is faster than allocating a new array.
    is_own = not np.may_share_memory(trimmed, recording.waveform)
    return normalize_peak(trimmed, peak, out=trimmed if is_own else None)


def trim_silence(waveform: Waveform, *, trim_db: float) -> Waveform:
    """Cut silence from both ends at the samples where ``librosa.effects.trim`` cuts with the same ``top_db``.

    Importing librosa would cost each worker more time than preparing a hundred recordings. Tests and `doctor` compare.

    Source: librosa.effects.trim, https://librosa.org/doc/latest/generated/librosa.effects.trim.html
    """
    return waveform[_loud_part(_hop_energy(waveform), trim_db)]


def normalize_peak(waveform: Waveform, peak: float, *, out: Waveform | None = None) -> Waveform:
    """Scale so that the largest absolute sample is ``peak``; zeros stay zeros.

    Args:
        waveform: Any level.
        peak: Above 0.
        out: Array for the result, which may be ``waveform`` itself; None: a new array.
    """
    loudest = max(waveform.max(), -waveform.min())
    return np.multiply(waveform, np.float32(peak / loudest), out=out) if loudest > 0 else waveform


def _hop_energy(waveform: Waveform) -> Waveform:
    """Return the sum of squares over each hop, shape (num_samples // TRIM_HOP + 1,); the last is incomplete."""
    num_whole = len(waveform) // TRIM_HOP
    hops = waveform[: num_whole * TRIM_HOP].reshape(num_whole, TRIM_HOP)
    rest = waveform[num_whole * TRIM_HOP :]
    energy = np.empty(num_whole + 1, np.float32)
    np.vecdot(hops, hops, out=energy[:-1])
    energy[-1] = rest @ rest
    return energy


def _loud_part(energy: Waveform, trim_db: float) -> slice:
    """Return the samples from the first to the last frame that is less than ``trim_db`` below the loudest."""
    # A centred frame spans four hops, two before its middle and two after, with zeros outside of the waveform. So its
    # energy is the sum of four hops, and each sample is squared once instead of four times.
    padded = np.zeros(len(energy) + 3, np.float32)
    padded[2:-1] = energy
    pairs = padded[:-1] + padded[1:]
    frames = np.maximum(pairs[:-2] + pairs[2:], _FLOOR)
    loud = frames > frames.max() * np.float32(np.power(10.0, -0.1 * trim_db))
    first, last = int(loud.argmax()), len(loud) - int(loud[::-1].argmax())
    return slice(first * TRIM_HOP, last * TRIM_HOP)
