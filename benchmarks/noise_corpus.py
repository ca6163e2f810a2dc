"""Write recordings in which nobody speaks, and a manifest of them with empty transcripts.

python -m benchmarks.noise_corpus FOLDER --count 120 --seed 1 --kinds white brown hum
"""

import argparse
import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from benchmarks.silence_corpora import make_music
from whisper_shard.utterance import SAMPLE_RATE

Waveform = NDArray[np.float32]


def make_colored(size: int, rng: np.random.Generator, *, slope: float) -> Waveform:
    """Return noise whose amplitude falls with frequency to the power of ``slope``: 0 white, 0.5 pink, 1 brown."""
    spectrum = np.fft.rfft(rng.standard_normal(size))
    spectrum /= np.maximum(np.arange(len(spectrum)), 1.0) ** slope
    return np.fft.irfft(spectrum, size).astype(np.float32)


def make_hum(size: int, rng: np.random.Generator) -> Waveform:
    """Return the hum of the mains, 50 or 60 Hz with harmonics, and a little noise."""
    time = np.arange(size) / SAMPLE_RATE
    base = rng.choice([50.0, 60.0])
    hum = sum(np.sin(2 * np.pi * base * n * time + rng.uniform(0, 6)) / n for n in range(1, 9))
    return (hum + 0.05 * rng.standard_normal(size)).astype(np.float32)


def make_knocks(size: int, rng: np.random.Generator) -> Waveform:
    """Return quiet noise with knocks, two a second on average."""
    waveform = 0.01 * rng.standard_normal(size)
    for start in rng.integers(0, size, max(1, 2 * size // SAMPLE_RATE)):
        length = min(size - start, SAMPLE_RATE // 10)
        waveform[start : start + length] += rng.standard_normal(length) * np.exp(-np.arange(length) / 300.0)
    return waveform.astype(np.float32)


KINDS: dict[str, Callable[[int, np.random.Generator], Waveform]] = {
    "white": lambda size, rng: make_colored(size, rng, slope=0.0),
    "pink": lambda size, rng: make_colored(size, rng, slope=0.5),
    "brown": lambda size, rng: make_colored(size, rng, slope=1.0),
    "hum": make_hum,
    "knocks": make_knocks,
    "music": make_music,
}
"""Returns so many samples of each kind, at any level."""


def write_noise(folder: Path, *, count: int, kinds: list[str], seed: int) -> Path:
    """Write recordings of 1 to 8 s with peaks of 0.02 to 0.9, kinds in turn; return the manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, rows = np.random.default_rng(seed), []
    for number in range(count):
        kind = kinds[number % len(kinds)]
        waveform = KINDS[kind](round(rng.uniform(1.0, 8.0) * SAMPLE_RATE), rng)
        waveform *= np.exp(rng.uniform(np.log(0.02), np.log(0.9))) / np.abs(waveform).max()
        soundfile.write(folder / f"{kind}-{number:04d}.wav", waveform, SAMPLE_RATE, subtype="PCM_16")
        rows.append((f"{kind}-{number:04d}.wav", "", kind))
    with (folder / "noise.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("audios", "transcription", "kind"), *rows])
    return folder / "noise.csv"


def main() -> None:
    """Write a corpus."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=120, help="recordings")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="what is heard, in turn")
    parser.add_argument("--seed", type=int, default=1, help="of lengths, levels and samples")
    given = parser.parse_args()
    print(write_noise(given.folder, count=given.count, kinds=given.kinds, seed=given.seed))


if __name__ == "__main__":
    main()
