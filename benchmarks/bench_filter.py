"""Measure how long a view of a million utterances takes: the command's work, in a process of its own.

python -m benchmarks.bench_filter [UTTERANCES]
"""

import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa

from benchmarks.machine import write_result
from whisper_shard.dataset.description import ShardInfo
from whisper_shard.dataset.schema import INDEX_SCHEMA, QUALITY_SCHEMA, with_quality
from whisper_shard.dataset.views import filter_dataset
from whisper_shard.dataset.writer import write_description, write_index

SHARD_ROWS = 1_000
WHERE = "chars_per_second < 25 and snr_db > 10"


def shard_table(shard: int, rng: np.random.Generator) -> pa.Table:
    """Return the index of a shard with texts of 40 to 100 characters."""
    rows, base = SHARD_ROWS, shard * SHARD_ROWS
    texts = ["".join(rng.choice(list("abcdefgh "), n)) for n in rng.integers(40, 100, 20)]
    numbers = {f.name: rng.integers(0, 1 << 20, rows) for f in INDEX_SCHEMA if f.type != pa.string()}
    numbers |= {
        "shard": np.full(rows, shard),
        "row": np.arange(rows),
        "num_samples": rng.integers(16_000, 400_000, rows),
    }
    quality = {f.name: rng.uniform(0, 40, rows) for f in QUALITY_SCHEMA}
    strings = {
        "key": [f"{base + row:09d}-recording-{row:08x}" for row in range(rows)],
        "text": [f"{texts[row % 20]} {base + row}" for row in range(rows)],
        "source": [f"audios/speaker/{base + row}.mp3" for row in range(rows)],
    }
    columns = {name: pa.array(values) for name, values in {**numbers, **quality, **strings}.items()}
    schema = with_quality(INDEX_SCHEMA)
    return pa.table(
        [columns[f.name].cast(f.type) if f.name in columns else pa.nulls(rows, f.type) for f in schema], schema
    )


def write_set(folder: Path, num_shards: int) -> None:
    """Write the index and the description of a dataset, without its shards."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    index = write_index(folder, (shard_table(n, rng) for n in range(num_shards)), schema=with_quality(INDEX_SCHEMA))
    shards = [
        ShardInfo(name=f"shards/{n:06d}.tar", num_bytes=1 << 28, sha256="0" * 64, num_utterances=SHARD_ROWS)
        for n in range(num_shards)
    ]
    write_description(folder, shards=shards, index=index, meta={})


def main() -> None:
    """Write an index without shards, filter it, and write down the time."""
    num_shards = int((sys.argv[1:] or ["1000000"])[0]) // SHARD_ROWS
    with TemporaryDirectory() as temporary:
        folder = Path(temporary) / "set"
        write_set(folder, num_shards)
        begin, cpu = time.perf_counter(), time.process_time()
        (made,) = filter_dataset(folder, Path(temporary) / "view", WHERE)
        found = {
            "utterances": made.num_utterances_before,
            "kept": made.num_utterances,
            "seconds": time.perf_counter() - begin,
            "cpu_seconds": time.process_time() - cpu,
            "index_mb": (folder / "index.parquet").stat().st_size / 1e6,
        }
    write_result("filter", f"python -m benchmarks.bench_filter {num_shards * SHARD_ROWS}", found, "pyarrow", "numpy")


if __name__ == "__main__":
    main()
