"""Small real things for tests: waveforms, datasets, models."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whisper_shard.audio.members import encode_npy
from whisper_shard.audio.samples import to_int16
from whisper_shard.dataset.description import ShardInfo
from whisper_shard.dataset.index import Dataset, open_dataset
from whisper_shard.dataset.schema import index_table
from whisper_shard.dataset.shard import ShardWriter
from whisper_shard.dataset.writer import write_dataset
from whisper_shard.storage.atomic import atomic_file
from whisper_shard.utterance import SAMPLE_RATE

WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def make_waveform(seconds: float, *, seed: int = 0) -> NDArray[np.float32]:
    """A chord under a slow envelope with a little noise; peak 0.9."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    tones = sum(np.sin(2 * np.pi * f * time + rng.uniform(0, 6)) for f in rng.uniform(100, 3000, 4))
    waveform = tones * (0.6 + 0.4 * np.sin(2 * np.pi * 3 * time)) + 0.01 * rng.standard_normal(len(time))
    return (0.9 * waveform / max(np.abs(waveform).max(initial=0), 1e-9)).astype(np.float32)


def make_dataset(
    folder: Path,
    seconds: Sequence[float],
    *,
    per_shard: int = 8,
    seed: int = 0,
    speakers: int = 2,
    prefix: str = "utt",
    text: str | None = None,
    record: Mapping[str, Any] | None = None,
    meta: Mapping[str, Any] | None = None,
) -> Dataset:
    """Write a dataset of made utterances through the package's own formats.

    Texts are digit words unless ``text`` is given; ``record`` adds to every record, ``meta`` to dataset.json.
    """
    rng = np.random.default_rng(seed)
    (folder / "shards").mkdir(parents=True)
    shards, tables = [], []
    for shard, start in enumerate(range(0, len(seconds), per_shard)):
        name = f"shards/{shard:06d}.tar"
        with atomic_file(folder / name) as file:
            writer = ShardWriter(file, shard=shard)
            for i in range(start, min(start + per_shard, len(seconds))):
                samples = to_int16(make_waveform(seconds[i], seed=seed * 100_003 + i))
                words = text or " ".join(rng.choice(WORDS, size=max(1, round(seconds[i]))))
                speaker = f"speaker{i % speakers}"
                fields = {"text": words, "seconds": seconds[i], "speaker": speaker, "source": f"audios/{i}.wav"}
                writer.add(
                    key=f"{prefix}{i:05d}",
                    audio=encode_npy(samples),
                    suffix="npy",
                    num_samples=len(samples),
                    record={**fields, **(record or {})},
                )
            writer.close()
        tables.append(index_table(writer.rows))
        shards.append(
            ShardInfo(name=name, num_bytes=file.num_bytes, sha256=file.sha256, num_utterances=len(writer.rows))
        )
    write_dataset(folder, shards=shards, tables=tables, meta=dict(meta or {}))
    return open_dataset(folder)
