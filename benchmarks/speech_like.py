"""Synthetic recordings that compress and trim like speech: voiced syllables, noise, pauses, quiet ends."""

from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

FORMATS = {"wav": ("WAV", "PCM_16"), "flac": ("FLAC", "PCM_16"), "mp3": ("MP3", "MPEG_LAYER_III")}


def make_speech_like(seconds: float, sample_rate: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return a voice of varying pitch with 4 syllables per second, pauses, some noise, and 0.2 s of quiet ends."""
    num_samples = round(seconds * sample_rate)
    time = np.arange(num_samples) / sample_rate
    pitch = rng.uniform(90, 220) * (1 + 0.15 * np.sin(2 * np.pi * rng.uniform(0.2, 0.6) * time + rng.uniform(0, 6)))
    phase = 2 * np.pi * np.cumsum(pitch) / sample_rate
    voice = sum(np.sin(k * phase + rng.uniform(0, 6)) / k**1.1 for k in range(1, 24))
    syllables = np.clip(np.sin(2 * np.pi * 4 * time + rng.uniform(0, 6)) + 0.3, 0, None)
    phrases = (np.sin(2 * np.pi * 0.4 * time + rng.uniform(0, 6)) > -0.7).astype(np.float64)
    speech = voice * syllables * phrases + 0.05 * rng.standard_normal(num_samples) * syllables
    edge = min(round(0.2 * sample_rate), num_samples // 4)
    speech[:edge] = speech[-edge:] = 0
    speech += 0.0005 * rng.standard_normal(num_samples)
    return (0.6 * speech / np.abs(speech).max()).astype(np.float32)


def make_recordings(
    folder: Path, suffix: str, minutes: float, *, sample_rate: int = 44_100, seed: int = 0
) -> list[Path]:
    """Write recordings of 3 to 12 s until ``minutes`` are reached; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, paths, total = np.random.default_rng(seed), [], 0.0
    container, subtype = FORMATS[suffix]
    while total < minutes * 60:
        seconds = rng.uniform(3, 12)
        path = folder / f"{len(paths):05d}.{suffix}"
        soundfile.write(
            path, make_speech_like(seconds, sample_rate, rng), sample_rate, format=container, subtype=subtype
        )
        paths.append(path)
        total += seconds
    return paths
