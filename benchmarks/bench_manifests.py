"""Measure how fast manifests are read, and that memory does not grow with their length.

python -m benchmarks.bench_manifests [--rows 1000000 10000000] [--formats csv json parquet kaldi]

Each list is read to its end in a process of its own, as `prepare` reads it, and nothing is kept. Memory is the peak of
that process beyond what it had after the first table.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.machine import write_result
from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.manifests.formats import open_manifest

CHUNK = 100_000
WORDS = ("the quick brown fox", "jumps over", "the lazy dog, and", "nobody knows why", "it did so on a Monday")


def main() -> None:
    """Write lists of several lengths, read each, and write down speed and memory."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--formats", nargs="+", default=list(WRITERS))
    parser.add_argument("--read", type=Path, help="read this list and print what it took")
    asked = parser.parse_args()
    if asked.read:
        print(json.dumps(read(asked.read)))
        return
    found = []
    for name in asked.formats:
        for rows in asked.rows:
            with TemporaryDirectory() as temporary:
                path = WRITERS[name](Path(temporary), rows)
                command = [sys.executable, "-m", "benchmarks.bench_manifests", "--read", str(path)]
                ran = subprocess.run(command, capture_output=True, text=True, check=True)
            measured = {"format": name, **json.loads(ran.stdout)}
            assert measured["rows"] == rows
            print(measured, flush=True)
            found.append(measured)
    rows = " ".join(map(str, asked.rows))
    command = f"python -m benchmarks.bench_manifests --rows {rows} --formats {' '.join(asked.formats)}"
    write_result("manifests", command, found, "pyarrow", "numpy")


def read(path: Path) -> dict[str, float]:
    """Read a list to its end."""
    begin, cpu = time.perf_counter(), time.process_time()
    rows = first_rss = 0
    for table in open_manifest(path, PrepareConfig()).read():
        rows += len(table)
        first_rss = first_rss or _peak_mb()
    return {
        "rows": rows,
        "seconds": round(time.perf_counter() - begin, 2),
        "cpu_seconds": round(time.process_time() - cpu, 2),
        "rows_per_cpu_second": round(rows / (time.process_time() - cpu)),
        "peak_mb": round(_peak_mb()),
        "mb_beyond_the_first_table": round(_peak_mb() - first_rss),
    }


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _chunks(rows: int) -> Iterator[range]:
    return (range(start, min(start + CHUNK, rows)) for start in range(0, rows, CHUNK))


def _text(i: int) -> str:
    return f"{WORDS[i % 5]} {WORDS[i % 3]} {i}"


def write_csv(folder: Path, rows: int) -> Path:
    """Write a list with quoted texts and a speaker."""
    with (folder / "corpus.csv").open("w") as file:
        file.write("path,sentence,speaker\n")
        for chunk in _chunks(rows):
            file.write("".join(f'clips/{i % 997}/{i:08d}.mp3,"{_text(i)}",spk{i % 5003}\n' for i in chunk))
    return folder / "corpus.csv"


def write_json(folder: Path, rows: int) -> Path:
    """Write JSON lines as NeMo has them."""
    with (folder / "corpus.jsonl").open("w") as file:
        for chunk in _chunks(rows):
            lines = (
                f'{{"audio_filepath": "clips/{i:08d}.wav", "duration": {2 + i % 20}.5, "text": "{_text(i)}"}}\n'
                for i in chunk
            )
            file.write("".join(lines))
    return folder / "corpus.jsonl"


def write_parquet(folder: Path, rows: int) -> Path:
    """Write a table of paths."""
    schema = pa.schema([("path", pa.string()), ("sentence", pa.string())])
    with pq.ParquetWriter(folder / "corpus.parquet", schema) as writer:
        for chunk in _chunks(rows):
            columns = [[f"clips/{i:08d}.mp3" for i in chunk], [_text(i) for i in chunk]]
            writer.write_table(pa.table(columns, schema))
    return folder / "corpus.parquet"


def write_kaldi(folder: Path, rows: int) -> Path:
    """Write a data folder with ten utterances to a recording."""
    names = ("text", "segments", "utt2spk", "wav.scp")
    files = {name: (folder / name).open("w") for name in names}
    for chunk in _chunks(rows):
        files["text"].write("".join(f"utt{i:09d} {_text(i)}\n" for i in chunk))
        files["utt2spk"].write("".join(f"utt{i:09d} spk{i // 1000}\n" for i in chunk))
        segments = (f"utt{i:09d} rec{i // 10:09d} {i % 10 * 5}.0 {i % 10 * 5 + 4}.5\n" for i in chunk)
        files["segments"].write("".join(segments))
        files["wav.scp"].write("".join(f"rec{i // 10:09d} wav/{i // 10:09d}.wav\n" for i in chunk if i % 10 == 0))
    for file in files.values():
        file.close()
    return folder


WRITERS = {"csv": write_csv, "json": write_json, "parquet": write_parquet, "kaldi": write_kaldi}

if __name__ == "__main__":
    main()
