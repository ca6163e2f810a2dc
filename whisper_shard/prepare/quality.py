"""Numbers that tell good recordings from bad ones, measured while the waveform is in hand and stored in the index.

`Quality` of whisper_shard/utterance.py lists them with their units. Peak, clipping and bandwidth are measured on the
recording as decoded, at its own rate, since resampling would hide them; the rest after trimming, at 16 kHz, before
levels are changed. Values are rounded to what they are worth: that keeps receipts short.
"""

import math
from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray

from whisper_shard.audio.recording import Recording
from whisper_shard.audio.samples import FULL_SCALE
from whisper_shard.utterance import SAMPLE_RATE, Quality, Waveform

FRAME = SAMPLE_RATE // 50
"""Samples of a frame whose level is measured: 20 ms at 16 kHz."""
HANGOVER_FRAMES = 10
"""Speech lasts this much longer than its level: 200 ms. Source: ITU-T P.56 (12/2011), method B, hangover time."""
SPEECH_MARGIN_DB = 15.9
"""How far below the mean level of speech its threshold is. Source: ITU-T P.56 (12/2011), method B, margin."""
NOISE_SHARE = 0.1
"""The quietest share of the frames: their mean is the level of the noise."""
MIN_SPEECH_DB = 6.0
"""Frames that are not this much above the noise are not speech, so that steady noise is none."""
SNR_RANGE_DB = (-20.0, 100.0)
"""Least and greatest signal-to-noise ratio that is given."""
CLIPPING_TOLERANCE = 2.0**-12
"""Samples this share below the extreme count as equal to it: encoders smear what was cut off."""
BLOCK = 2048
"""Samples whose extremes are found together, so that all but the loudest are looked at only once."""
CLIPPING_RUN = 3
"""So many neighbours at the extreme are a cut-off wave; a wave that only touches it has one or two."""
BANDWIDTH_DB = 50.0
"""Frequencies this much below the strongest are no signal.

Source: Bakhturina et al., Hi-Fi Multi-Speaker English TTS Dataset, arXiv:2104.01497, section on bandwidth.
"""
BANDWIDTH_FRAMES = 48
"""Frames whose spectra are averaged, evenly spaced: more change the result little and take longer."""
_QUANTIZATION = 1 / (12 * FULL_SCALE**2)  # power of the noise of 16 bits: digital silence is not quieter


def measure_quality(recording: Recording, trimmed: Waveform, *, num_chars: int) -> Quality:
    """Measure an utterance.

    Args:
        recording: As decoded.
        trimmed: The same at 16 kHz after trimming, at the level of the recording; not empty.
        num_chars: Code points of normalized text.
    """
    highs, lows = _block_extremes(recording.waveform)
    powers = _frame_powers(trimmed)
    is_speech = _find_speech(powers)
    correlation = recording.channel_correlation
    return Quality(
        peak=round(max(float(highs.max()), -float(lows.min())), 5),
        rms_db=round(_as_db(float(trimmed @ trimmed) / len(trimmed) + _QUANTIZATION), 2),
        snr_db=round(_signal_to_noise_db(powers, is_speech), 1),
        clipped_fraction=float(f"{_count_clipped(recording.waveform, highs, lows) / len(recording.waveform):.3g}"),
        speech_fraction=round(float(is_speech.mean()), 3),
        bandwidth_hz=round(_bandwidth_hz(recording)),
        chars_per_second=round(num_chars * SAMPLE_RATE / len(trimmed), 2),
        channel_correlation=None if correlation is None else round(correlation, 3),
    )


def measure_noise(waveform: Waveform) -> float:
    """Return the root mean square of the quietest tenth of a waveform, 1.0 is full scale."""
    return math.sqrt(_noise_power(_frame_powers(waveform)))


def _frame_powers(waveform: Waveform) -> NDArray[np.float64]:
    """Return the mean square of each whole frame; of all samples where there is no whole frame."""
    num_frames = max(len(waveform) // FRAME, 1)
    frames = waveform[: num_frames * FRAME].reshape(num_frames, -1)
    powers: NDArray[np.float64] = np.vecdot(frames, frames).astype(np.float64) / frames.shape[1] + _QUANTIZATION
    return powers


def _noise_power(powers: NDArray[np.float64]) -> float:
    num_quiet = max(round(NOISE_SHARE * len(powers)), 1)
    return float(np.partition(powers, num_quiet - 1)[:num_quiet].mean())


def _find_speech(powers: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which frames are speech.

    The threshold is the lowest that lies at most 15.9 dB below the mean level of the frames above it, which is the
    active speech level of P.56. Levels of frames are the thresholds that are tried.
    """
    envelope = powers.copy()
    for frames in range(1, min(HANGOVER_FRAMES, len(powers))):
        np.maximum(envelope[frames:], powers[:-frames], out=envelope[frames:])
    levels = np.sort(envelope)[::-1]
    active_levels = powers.sum() / np.arange(1, len(levels) + 1)
    candidates = np.flatnonzero(active_levels <= levels * 10 ** (SPEECH_MARGIN_DB / 10))
    threshold = levels[candidates[-1] if len(candidates) else 0]
    is_speech: NDArray[np.bool_] = envelope >= max(threshold, _noise_power(powers) * 10 ** (MIN_SPEECH_DB / 10))
    return is_speech


def _signal_to_noise_db(powers: NDArray[np.float64], is_speech: NDArray[np.bool_]) -> float:
    """Return by how much speech is louder than the quietest frames, whose noise is subtracted from it.

    Source: the idea of NIST's STNR, Speech Quality Assurance Package 2.3: levels of frames, no model of speech.
    """
    noise = _noise_power(powers)
    speech = float(powers[is_speech].mean() if is_speech.any() else powers.mean()) - noise
    low, high = SNR_RANGE_DB
    return min(max(_as_db(speech / noise), low), high) if speech > 0 else low


def _count_clipped(waveform: Waveform, highs: Waveform, lows: Waveform) -> int:
    """Count the samples in runs at the extremes; where a wave was cut off and then made quieter, these are lower.

    Args:
        waveform: All samples.
        highs: Highest sample of each block.
        lows: Lowest sample of each block.
    """
    highest, lowest = float(highs.max()), float(lows.min())
    top = highest - abs(highest) * CLIPPING_TOLERANCE
    bottom = lowest + abs(lowest) * CLIPPING_TOLERANCE
    # Few blocks reach an extreme: the others need not be looked at again. The blocks next to each other are kept
    # together by the numbers of their samples, so that a run may reach from one into the next.
    above, below = np.flatnonzero(highs >= top).tolist(), np.flatnonzero(lows <= bottom).tolist()
    num_above = _count_in_runs(_places(waveform, above, lambda block: block >= top))
    return num_above + _count_in_runs(_places(waveform, below, lambda block: block <= bottom))


def _places(
    waveform: Waveform, blocks: list[int], is_extreme: Callable[[Waveform], NDArray[np.bool_]]
) -> NDArray[np.intp]:
    """Return the numbers of the samples of some blocks that are extreme."""
    starts = [block * BLOCK for block in blocks]
    parts = [start + np.flatnonzero(is_extreme(waveform[start : start + BLOCK])) for start in starts]
    return np.concatenate(parts)


def _block_extremes(waveform: Waveform) -> tuple[Waveform, Waveform]:
    """Return the highest and the lowest sample of each block; the last block may be shorter."""
    starts = np.arange(0, len(waveform), BLOCK)
    return np.maximum.reduceat(waveform, starts), np.minimum.reduceat(waveform, starts)


def _count_in_runs(places: NDArray[np.intp]) -> int:
    """Count the places that have neighbours, `CLIPPING_RUN` of them together at least."""
    if len(places) < CLIPPING_RUN:
        return 0
    edges = np.flatnonzero(np.diff(places) != 1) + 1
    lengths = np.diff(np.concatenate([[0], edges, [len(places)]]))
    return int(lengths[lengths >= CLIPPING_RUN].sum())


def _bandwidth_hz(recording: Recording) -> float:
    """Return the highest frequency in the mean power spectrum that is not too far below the strongest."""
    rate, waveform = recording.sample_rate, recording.waveform
    size = min(2 ** round(math.log2(rate / 86)), len(waveform))
    step = max((len(waveform) - size) // (BANDWIDTH_FRAMES - 1), 1)
    frames = np.lib.stride_tricks.sliding_window_view(waveform, size)[::step][:BANDWIDTH_FRAMES] * _window(size)
    spectrum = np.fft.rfft(frames)
    power = np.vecdot(spectrum.T, spectrum.T).real
    loud = np.flatnonzero(power >= power.max() * 10 ** (-BANDWIDTH_DB / 10))
    return float(loud[-1]) * float(rate / size)


@cache
def _window(size: int) -> Waveform:
    """Return the 4-term Blackman-Harris window, whose side lobes are 92 dB down: a low tone has no high frequencies.

    Source: Harris, On the Use of Windows for Harmonic Analysis, Proc. IEEE 66(1), 1978, table 1.
    """
    angles = np.arange(size)[:, None] * (2 * np.pi / size) * np.arange(4)
    window: Waveform = (np.cos(angles) @ np.array([0.35875, -0.48829, 0.14128, -0.01168])).astype(np.float32)
    return window


def _as_db(power: float) -> float:
    return 10 * math.log10(power)
