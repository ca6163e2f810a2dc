"""A corpus for loader benchmarks: real shards with speech-like durations, written by the package's own writers."""

from pathlib import Path

import numpy as np

from whisper_shard.audio.members import encode_npy
from whisper_shard.audio.samples import to_int16
from whisper_shard.dataset.description import ShardInfo
from whisper_shard.dataset.index import Dataset, open_dataset
from whisper_shard.dataset.schema import index_table
from whisper_shard.dataset.shard import ShardWriter
from whisper_shard.dataset.writer import write_dataset
from whisper_shard.storage.atomic import atomic_file
from whisper_shard.utterance import SAMPLE_RATE

WORDS = "the of and a to in is you that it he was for on are as with his they at be this have from".split()  # noqa: SIM905


def draw_seconds(num_utterances: int, *, seed: int = 0) -> np.ndarray:
    """Return log-normal durations between 1 and 29.9 s with a mean of about 7.6 s."""
    rng = np.random.default_rng(seed)
    return np.clip(np.exp(rng.normal(np.log(6.5), 0.6, num_utterances)), 1.0, 29.9)


def make_corpus(
    folder: Path, num_utterances: int, *, per_shard: int = 250, seed: int = 0, mean_seconds: float = 7.6
) -> Dataset:
    """Write a dataset of noise, its shards sorted by length as `prepare` does; texts have 14 characters per second."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal(40 * SAMPLE_RATE).astype(np.float32) * 0.1
    (folder / "shards").mkdir(parents=True)
    seconds = draw_seconds(num_utterances, seed=seed) * (mean_seconds / 7.6)
    for start in range(0, num_utterances, per_shard):
        seconds[start : start + per_shard].sort()
    shards, tables = [], []
    for shard, start in enumerate(range(0, num_utterances, per_shard)):
        name = f"shards/{shard:06d}.tar"
        with atomic_file(folder / name) as file:
            writer = ShardWriter(file, shard=shard)
            for i in range(start, min(start + per_shard, num_utterances)):
                first = int(rng.integers(9 * SAMPLE_RATE))
                samples = to_int16(noise[first : first + round(seconds[i] * SAMPLE_RATE)])
                text = " ".join(rng.choice(WORDS, size=max(1, round(seconds[i] * 3.5))))
                record = {
                    "text": text,
                    "seconds": round(seconds[i], 3),
                    "speaker": f"speaker{i % 50}",
                    "source": f"{i}.wav",
                }
                writer.add(
                    key=f"utt{i:07d}", audio=encode_npy(samples), suffix="npy", num_samples=len(samples), record=record
                )
            writer.close()
        tables.append(index_table(writer.rows))
        shards.append(
            ShardInfo(name=name, num_bytes=file.num_bytes, sha256=file.sha256, num_utterances=len(writer.rows))
        )
    write_dataset(folder, shards=shards, tables=tables, meta={})
    return open_dataset(folder)
