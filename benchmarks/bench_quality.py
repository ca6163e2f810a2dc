"""Measure what share of the preparation of a row is spent on measuring its quality.

    python -m benchmarks.bench_quality FOLDER_OF_RECORDINGS

Each recording is prepared with and without quality, in turns, and so are 8 s mp3 files at 44.1 kHz made of them. The
time is that of the CPU for decoding, resampling, trimming, levelling and measuring.
"""

import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import soundfile

from benchmarks.machine import write_result
from whisper_shard.audio.decoders import DECODERS
from whisper_shard.audio.files import read_recording
from whisper_shard.audio.resample import resample
from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.prepare.pipeline import build_pipeline, prepare_row
from whisper_shard.utterance import ManifestRow, Utterance

RATE = 44_100
FILES = 300
LONG_FILES = 60


def make_long(paths: list[str], folder: Path) -> list[str]:
    """Write mp3 files of 8 s, each of other recordings put end to end."""
    decoders = [make() for make in DECODERS.values()]
    recordings = [read_recording(path, decoders=decoders, max_seconds=60) for path in paths]
    rng, found = np.random.default_rng(0), []
    for number in range(LONG_FILES):
        parts = [recordings[place] for place in rng.integers(0, len(recordings), 40)]
        waveform = np.concatenate([resample(part.waveform, part.sample_rate, RATE) for part in parts])[: 8 * RATE]
        found.append(str(folder / f"{number}.mp3"))
        soundfile.write(found[-1], waveform, RATE)
    return found


def measure(paths: list[str]) -> dict[str, float]:
    """Return CPU time without and with quality, and its share: medians of five rounds."""
    pipelines = [build_pipeline(PrepareConfig(quality=quality, min_seconds=0.0)) for quality in (False, True)]
    shares, spent = [], []
    for _ in range(6):
        totals = [0.0, 0.0]
        for number, path in enumerate(paths):
            row = ManifestRow(row=number, source=path, path=path, transcript="some words to say")
            for which, pipeline in enumerate(pipelines):
                begin = time.process_time()
                result = prepare_row(row, pipeline)
                totals[which] += time.process_time() - begin
                assert isinstance(result, Utterance), result
        shares.append(totals[1] / totals[0] - 1)
        spent.append([1000 * total / len(paths) for total in totals])
    without, with_quality = np.median(spent[1:], axis=0)
    share = float(np.median(shares[1:]))
    return {
        "files": len(paths),
        "ms_a_row_without": float(without),
        "ms_a_row_with_quality": float(with_quality),
        "more": share,
    }


def main() -> None:
    """Measure the recordings as they are, and long ones made of them."""
    paths = [str(path) for path in sorted(Path(sys.argv[1]).rglob("*.*"))][:FILES]
    with TemporaryDirectory() as folder:
        found = {"as they are": measure(paths), "8 s mp3 at 44.1 kHz": measure(make_long(paths, Path(folder)))}
    write_result("quality", "python -m benchmarks.bench_quality FOLDER", found, "numpy", "soundfile", "soxr")


if __name__ == "__main__":
    main()
