"""Time to the first batch of ten million utterances: opening, plan and resuming, with a cold and a warm disk cache.

    python -m benchmarks.bench_index [--folder DIR] [--utterances 10000000] [--rounds 3]

The index is written by the package's own writer, with texts that do not compress well; shards are not needed for the
plan. Each measurement runs in a process of its own; times start after Python and the libraries are loaded. Writes
benchmarks/results/<date>-index.json and prints a table.
"""

import argparse
import datetime
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.corpus import draw_seconds
from benchmarks.machine import describe_machine
from whisper_shard.config.stream import StreamConfig
from whisper_shard.dataset.description import ShardInfo
from whisper_shard.dataset.index import open_dataset
from whisper_shard.dataset.schema import INDEX_SCHEMA
from whisper_shard.dataset.shard import BLOCK
from whisper_shard.dataset.writer import write_dataset
from whisper_shard.stream.loader import open_loader
from whisper_shard.stream.resume import PlanState
from whisper_shard.utterance import SAMPLE_RATE

PER_SHARD = 1000  # about 250 MB, as prepare makes them
JSON_BYTES = 250


def random_words() -> str:
    """Return 16 MB of random letters and spaces, which do not compress well."""
    rng = np.random.default_rng(0)
    letters = rng.integers(97, 123, 1 << 24).astype(np.uint8)
    letters[rng.random(len(letters)) < 0.18] = 32
    return letters.tobytes().decode()


def index_tables(num_utterances: int, words: str, *, name: str = "utt") -> Iterator[pa.Table]:
    """Yield the index of a corpus by shard; texts are pieces of ``words``, about 14 characters per second."""
    rng = np.random.default_rng(list(name.encode()))
    seconds = draw_seconds(num_utterances)
    for shard in range(num_utterances // PER_SHARD):
        rows = np.arange(shard * PER_SHARD, (shard + 1) * PER_SHARD)
        num_samples = (seconds[rows] * SAMPLE_RATE).astype(np.int32)
        num_chars = (num_samples // 1150).astype(np.int32)
        starts = rng.integers(0, len(words) - 500, PER_SHARD).tolist()
        audio_bytes = 2 * num_samples.astype(np.int64) + 128
        audio_blocks = BLOCK + -(-audio_bytes // BLOCK) * BLOCK
        sizes = audio_blocks + BLOCK + -(-JSON_BYTES // BLOCK) * BLOCK
        audio_offsets = np.cumsum(sizes) - sizes + BLOCK
        columns = {
            "shard": np.full(PER_SHARD, shard, np.int32),
            "row": np.arange(PER_SHARD, dtype=np.int32),
            "key": [f"{name}{row:09d}" for row in rows.tolist()],
            "audio_offset": audio_offsets,
            "audio_bytes": audio_bytes.astype(np.int32),
            "json_offset": audio_offsets + audio_blocks,
            "json_bytes": np.full(PER_SHARD, JSON_BYTES, np.int32),
            "audio_crc32": rng.integers(0, 1 << 32, PER_SHARD, np.uint32),
            "json_crc32": rng.integers(0, 1 << 32, PER_SHARD, np.uint32),
            "num_samples": num_samples,
            "num_chars": num_chars,
            "text": [words[start : start + size] for start, size in zip(starts, num_chars.tolist(), strict=True)],
            "language": ["en"] * PER_SHARD,
            "speaker": [f"speaker{row // 50 % 5000}" for row in rows.tolist()],
            "task": pa.nulls(PER_SHARD, pa.string()),
            "source": [f"audio/{row // 100:06d}.flac" for row in rows.tolist()],
        }
        yield pa.table(columns, schema=INDEX_SCHEMA)


def write_index_only(folder: Path, num_utterances: int, words: str, *, name: str = "utt") -> None:
    folder.mkdir(parents=True)
    shards = [
        ShardInfo(name=f"shards/{shard:06d}.tar", num_bytes=1 << 30, sha256="0" * 64, num_utterances=PER_SHARD)
        for shard in range(num_utterances // PER_SHARD)
    ]
    write_dataset(folder, shards=shards, tables=index_tables(num_utterances, words, name=name), meta={})
    os.sync()


def forget_files(folder: Path) -> None:
    """Remove the files of a folder from the disk cache."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_memory() -> dict[str, float]:
    """Return the memory of this process in MB: private, and mapped files."""
    lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return {name: int(lines[name].split()[0]) * 1024 / 1e6 for name in ("RssAnon", "RssFile")}


def plan_step(folder: Path, state: PlanState | None) -> int:
    """Open the dataset and plan the first step after ``state``; return the row of its first utterance."""
    loader = open_loader(open_dataset(folder), StreamConfig(augment=()), state=state)
    plan_stage = loader.pipeline.pipeline[0]
    return int(next(iter(plan_stage()))["index_row"])


def measure(folder: Path, what: str, state: PlanState | None, out: Any) -> None:
    """Run in a process of its own."""
    before = read_memory()
    started = time.perf_counter()
    if what == "open":
        open_dataset(folder)
    else:
        plan_step(folder, state)
    seconds = time.perf_counter() - started
    after = read_memory()
    growth = {name: after[name] - before[name] for name in before}
    out.put({"seconds": seconds, "own_mb": growth["RssAnon"], "mapped_mb": growth["RssFile"]})


def run_apart(folder: Path, what: str, state: PlanState | None) -> dict[str, float]:
    context = multiprocessing.get_context("spawn")
    out = context.Queue()
    process = context.Process(target=measure, args=(folder, what, state, out))
    process.start()
    result: dict[str, float] = out.get(timeout=300)
    process.join()
    return result


def run(folder: Path, num_utterances: int, rounds: int) -> dict[str, Any]:
    started = time.perf_counter()
    write_index_only(folder, num_utterances, random_words())
    print(f"written in {time.perf_counter() - started:.0f} s", flush=True)
    start = open_loader(open_dataset(folder), StreamConfig(augment=())).start
    states = {"open": None, "first batch": None, "resume": start.at(7, start.steps_per_epoch - 1)}
    measured: dict[str, list[dict[str, float]]] = {}
    for _ in range(rounds):
        for what, state in states.items():
            for cache in ("cold", "warm"):
                if cache == "cold":
                    forget_files(folder)
                result = run_apart(folder, what, state)
                measured.setdefault(f"{what}, {cache}", []).append(result)
                print(f"{what}, {cache}: {result['seconds']:.2f} s", flush=True)
    return {
        "date": datetime.date.today().isoformat(),
        "machine": describe_machine("numpy", "pyarrow"),
        "utterances": num_utterances,
        "rounds": rounds,
        "bytes": {path.name: path.stat().st_size for path in sorted(folder.iterdir())},
        "measured": {
            name: {key: statistics.median(one[key] for one in results) for key in results[0]}
            | {"all_seconds": [one["seconds"] for one in results]}
            for name, results in measured.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="folder for the index of 1.4 GB; default: a temporary folder")
    parser.add_argument("--utterances", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        report = run(Path(folder) / "dataset", arguments.utterances, arguments.rounds)
    for name, result in report["measured"].items():
        print(
            f"{name:20} {result['seconds']:6.2f} s, {result['own_mb']:5.0f} MB and {result['mapped_mb']:5.0f} MB mapped"
        )
    path = Path(__file__).parent / "results" / f"{report['date']}-index.json"
    path.write_text(json.dumps(report, indent=1) + "\n")
    print(path)


if __name__ == "__main__":
    main()
