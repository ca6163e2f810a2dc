"""Speed of the loader against plain webdataset on the same shards; padding; and the plan of ten million utterances.

    python -m benchmarks.bench_stream [--folder DIR] [--rounds 5]

Every setting is measured once per round, so that changes of the machine affect all of them; ratios are medians over
rounds of the ratios within a round. Writes benchmarks/results/<date>-stream.json and prints a table.
"""

import argparse
import datetime
import json
import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import webdataset as wds

from benchmarks.corpus import draw_seconds, make_corpus
from benchmarks.machine import describe_machine
from whisper_shard.config.stream import GUIDE_AUGMENT, StreamConfig
from whisper_shard.dataset.index import Dataset
from whisper_shard.stream.loader import open_loader
from whisper_shard.stream.plan import Plan
from whisper_shard.stream.units import BatchRule, Units
from whisper_shard.utterance import SAMPLE_RATE

BATCH = 32
EPOCHS = 3
FAST_AUGMENT = ({"kind": "noise", "p": 0.2}, {"kind": "gain", "p": 0.2})
NUM_UTTERANCES = 2500


def pad_samples(samples: list[tuple[np.ndarray, dict[str, Any]]]) -> tuple[torch.Tensor, list[str]]:
    """Collate for plain webdataset: float32 in [-1, 1], padded with zeros."""
    waveforms = torch.zeros(len(samples), max(len(sample[0]) for sample in samples))
    for row, (samples_int16, _) in zip(waveforms, samples, strict=True):
        row[: len(samples_int16)] = torch.from_numpy(samples_int16) * (1 / 32768)
    return waveforms, [known["text"] for _, known in samples]


def plain_webdataset(dataset: Dataset, workers: int, *, epochs: int = EPOCHS) -> Iterator[int]:
    urls = [str(dataset.shard_path(shard)) for shard in range(len(dataset.shards))]
    pipeline = wds.WebDataset(urls, shardshuffle=False).shuffle(1000).decode().to_tuple("npy", "json")
    batches: Iterable[Any] = pipeline.batched(BATCH, collation_fn=pad_samples).repeat(epochs)
    if workers:
        batches = wds.WebLoader(batches, batch_size=None, num_workers=workers)
    for _, texts in batches:
        yield len(texts)


def ours(dataset: Dataset, **settings: Any) -> Iterator[int]:
    config = StreamConfig(**({"batch_size": BATCH, "workers": 0, "augment": ()} | settings))
    loader = open_loader(dataset, config, epochs=EPOCHS)
    for batch in loader:
        yield len(batch.ids)
    loader.close()


SETTINGS: dict[str, Callable[[Dataset], Iterator[int]]] = {
    "webdataset, 0 workers": lambda dataset: plain_webdataset(dataset, 0),
    "ours float32, 0 workers": lambda dataset: ours(dataset),
    "ours int16, 0 workers": lambda dataset: ours(dataset, sample_format="int16"),
    "ours float32, guide's augmentation": lambda dataset: ours(dataset, augment=GUIDE_AUGMENT),
    "ours float32, noise and gain": lambda dataset: ours(dataset, augment=FAST_AUGMENT),
    "webdataset, 2 workers": lambda dataset: plain_webdataset(dataset, 2),
    "ours float32, 1 worker": lambda dataset: ours(dataset, workers=1),
    "ours float32, 2 workers": lambda dataset: ours(dataset, workers=2),
    "ours int16, 2 workers": lambda dataset: ours(dataset, workers=2, sample_format="int16"),
}
RATIOS = {
    "float32 against webdataset, one process": ("ours float32, 0 workers", "webdataset, 0 workers", 5.0),
    "int16 against webdataset, one process": ("ours int16, 0 workers", "webdataset, 0 workers", None),
    "two workers against one": ("ours float32, 2 workers", "ours float32, 1 worker", 1.7),
    "two workers against webdataset's two": ("ours float32, 2 workers", "webdataset, 2 workers", None),
    "guide's augmentation against none": ("ours float32, guide's augmentation", "ours float32, 0 workers", 0.6),
    "noise and gain against none": ("ours float32, noise and gain", "ours float32, 0 workers", 0.6),
}


def measure_rate(counts: Iterator[int]) -> float:
    """Return utterances per second after the first epoch, which opens files, starts processes and fills memory."""
    for _ in range(-(-NUM_UTTERANCES // BATCH)):
        next(counts)
    started = time.perf_counter()
    return sum(counts) / (time.perf_counter() - started)


def measure_padding() -> dict[str, float]:
    """Return the share of padding in batches of 64 of 100,000 log-normal durations, by number of buckets."""
    num_samples = (draw_seconds(100_000) * SAMPLE_RATE).astype(np.int32)
    chars = np.random.default_rng(1).integers(20, 200, 100_000).astype(np.int32)
    units = Units(num_samples=num_samples, num_chars=chars, shard_sizes=(np.full(200, 500),))
    shares = {}
    for buckets in (1, 8, 16, 32, 64, 256):
        plan = Plan(units, BatchRule(length_buckets=buckets), seed=0)
        lengths = [num_samples[ids[ids >= 0]] for ids in (plan.batch(0, step) for step in range(plan.steps))]
        padded = sum(64 * int(one.max()) for one in lengths)
        shares[str(buckets)] = 1 - int(num_samples.sum(dtype=np.int64)) / padded
    return shares


def measure_plan(num_utterances: int = 10_000_000) -> dict[str, float]:
    """Return time and memory of the plan, with the columns of the index already in memory."""
    num_samples = (draw_seconds(num_utterances) * SAMPLE_RATE).astype(np.int32)
    units = Units(
        num_samples=num_samples, num_chars=num_samples // 1200, shard_sizes=(np.full(num_utterances // 500, 500),)
    )
    seconds = {}
    for name, rule in (("batch_size 64", BatchRule()), ("batch_seconds 600", BatchRule(batch_seconds=600.0))):
        for place, epoch in (("first batch", 0), ("resume at the last step of epoch 7", 7)):
            started = time.perf_counter()
            plan = Plan(units, rule, seed=0)
            plan.batch(epoch, plan.steps - 1 if epoch else 0)
            seconds[f"{name}: {place}, seconds"] = time.perf_counter() - started
        started = time.perf_counter()
        for step in range(1000):
            plan.batch(7, step)
        seconds[f"{name}: one more batch, seconds"] = (time.perf_counter() - started) / 1000
        tracemalloc.start()
        Plan(units, rule, seed=0).batch(0, 0)
        seconds[f"{name}: peak memory beside the index, MB"] = tracemalloc.get_traced_memory()[1] / 1e6
        tracemalloc.stop()
    return seconds


def run(folder: Path, rounds: int) -> dict[str, Any]:
    dataset = make_corpus(folder, NUM_UTTERANCES)
    rates: dict[str, list[float]] = {name: [] for name in SETTINGS}
    for number in range(rounds):
        for name, start in SETTINGS.items():
            rates[name].append(measure_rate(start(dataset)))
            print(f"round {number + 1}: {name}: {rates[name][-1]:,.0f} utterances/s", flush=True)
    ratios = {
        name: {
            "median": statistics.median(a / b for a, b in zip(rates[over], rates[under], strict=True)),
            "of_best": max(rates[over]) / max(rates[under]),
            "target": target,
        }
        for name, (over, under, target) in RATIOS.items()
    }
    return {
        "date": datetime.date.today().isoformat(),
        "machine": describe_machine("numpy", "torch", "webdataset", "audiomentations"),
        "corpus": {"utterances": NUM_UTTERANCES, "mean_seconds": dataset.num_samples / SAMPLE_RATE / NUM_UTTERANCES},
        "batch": BATCH,
        "rounds": rounds,
        "utterances_per_second": {name: {"median": statistics.median(r), "all": r} for name, r in rates.items()},
        "ratios": ratios,
        "padding_share_by_length_buckets": measure_padding(),
        "plan_of_10_million": measure_plan(),
    }


def print_tables(report: dict[str, Any]) -> None:
    for name, rate in report["utterances_per_second"].items():
        print(f"{name:45} {rate['median']:10,.0f} utterances/s")
    for name, ratio in report["ratios"].items():
        target = "" if ratio["target"] is None else f"   target {ratio['target']}"
        print(f"{name:45} {ratio['median']:10.2f} x{target}")
    for buckets, share in report["padding_share_by_length_buckets"].items():
        print(f"padding with {buckets:>3} length buckets {100 * share:24.1f} %")
    for name, value in report["plan_of_10_million"].items():
        print(f"{name:60} {value:10.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="folder for the corpus of 600 MB; default: a temporary folder")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        report = run(Path(folder) / "corpus", arguments.rounds)
    print_tables(report)
    path = Path(__file__).parent / "results" / f"{report['date']}-stream.json"
    path.write_text(json.dumps(report, indent=1) + "\n")
    print(path)


if __name__ == "__main__":
    main()
