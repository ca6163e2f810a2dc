"""Is the loader fast enough here, and if not, what bounds it?

Stages are measured apart, each over the same records in this process; then whole loaders with 0, 1, 2, ... processes,
as a training loop would pull them. The report names the stage that costs most and a setting to use.
"""

import os
import platform
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from whisper_shard.bench.epoch import plan_reads
from whisper_shard.bench.report import BenchReport, LoaderRate, StageTime
from whisper_shard.bench.stages import LogMel, Progress, measure_stages
from whisper_shard.config.tools import BenchConfig
from whisper_shard.dataset.index import Dataset
from whisper_shard.errors import ConfigError
from whisper_shard.stream.loader import open_loader
from whisper_shard.utterance import SAMPLE_RATE

_WARM_UP = 4  # batches that are not counted, for each process
_GOOD_SHARE = 0.9  # of the best rate: enough to recommend fewer processes
_MARGIN = 1.2  # times the training step's need


def bench_dataset(
    datasets: Sequence[Dataset],
    config: BenchConfig,
    progress: Progress | None = None,
    *,
    log_mel: LogMel | None = None,
) -> BenchReport:
    """Measure how fast a dataset can be streamed here.

    Args:
        datasets: What is streamed: one finished dataset, or several that are mixed.
        config: Loader settings, measuring time, step time.
        progress: Called with a few words on what is being measured.
        log_mel: If given, measured as a stage; it lives on a higher floor.

    Raises:
        ConfigError: The data is empty, or no time is given to measure in.
    """
    folders = " + ".join(str(dataset.location) for dataset in datasets)
    if not any(dataset.num_utterances for dataset in datasets):
        raise ConfigError(f"{folders}: the dataset is empty, there is nothing to measure")
    if config.seconds <= 0:
        raise ConfigError(f"--seconds is {config.seconds:g}; it must be above 0")
    report_progress = progress or _ignore
    stages = measure_stages(datasets, config, report_progress, log_mel=log_mel)
    cores = len(os.sched_getaffinity(0))
    most = cores if config.max_workers < 0 else config.max_workers
    rates, padding, per_batch = [], 0.0, 0.0
    for workers in range(most + 1):
        report_progress(f"loader with {workers} process{'es' * (workers != 1)}")
        rate, padding, per_batch = measure_rate(datasets, config, workers)
        rates.append(rate)
    chosen = recommend(rates)
    bounding = bounding_stage(stages, workers=chosen.workers)
    return BenchReport(
        dataset=folders,
        num_utterances=sum(dataset.num_utterances for dataset in datasets),
        hours=sum(dataset.num_samples for dataset in datasets) / SAMPLE_RATE / 3600,
        batch_utterances=per_batch,
        padding_share=padding,
        step_seconds=config.step_ms / 1000 or None,
        stages=stages,
        rates=tuple(rates),
        epoch=plan_reads(datasets, config),
        bounding_stage=bounding,
        recommended_workers=chosen.workers,
        advice=advise(rates, chosen, bounding=bounding, cores=cores),
        machine=describe_machine(),
    )


def measure_rate(datasets: Sequence[Dataset], config: BenchConfig, workers: int) -> tuple[LoaderRate, float, float]:
    """Pull batches as fast as they come; return the rate, the share of padding and the utterances a batch."""
    loader = open_loader(datasets, replace(config.stream, workers=workers))
    columns = [dataset.columns("audio_bytes", "json_bytes") for dataset in datasets]
    stored_bytes = np.concatenate([one["audio_bytes"].astype(np.int64) + one["json_bytes"] for one in columns])
    waits: list[float] = []
    counts = real = padded = num_bytes = 0
    begun = time.perf_counter()
    batches = iter(loader)
    next(batches)
    first_batch_seconds = time.perf_counter() - begun
    for _ in range(_WARM_UP * max(workers, 1)):
        next(batches)
    started = before = time.perf_counter()
    while before - started < config.seconds or len(waits) < 8:
        batch = next(batches)
        now = time.perf_counter()
        waits.append(now - before)
        before = now
        counts += len(batch.ids)
        num_bytes += int(stored_bytes[list(batch.ids)].sum())
        real += int(batch.num_samples.sum())
        padded += batch.waveforms.numel()
    loader.close()
    elapsed = before - started
    step_seconds = config.step_ms / 1000
    rate = LoaderRate(
        workers=workers,
        utterances_per_second=counts / elapsed,
        audio_hours_per_second=real / SAMPLE_RATE / 3600 / elapsed,
        mb_per_second=num_bytes / 1e6 / elapsed,
        first_batch_seconds=first_batch_seconds,
        reads=loader.counts.gets,
        mb_fetched=loader.counts.num_bytes / 1e6,
        wait_p50_seconds=float(np.percentile(waits, 50)),
        wait_p99_seconds=float(np.percentile(waits, 99)),
        headroom=step_seconds * len(waits) / elapsed if step_seconds else None,
    )
    return rate, 1 - real / padded, counts / len(waits)


def recommend(rates: Iterable[LoaderRate]) -> LoaderRate:
    """Choose the fewest processes that feed the training step with some margin, or nearly reach the best rate."""
    rates = list(rates)
    for rate in rates:
        if rate.headroom is not None and rate.headroom >= _MARGIN:
            return rate
    best = max(rate.utterances_per_second for rate in rates)
    return next(rate for rate in rates if rate.utterances_per_second >= _GOOD_SHARE * best)


def bounding_stage(stages: Iterable[StageTime], *, workers: int) -> str:
    """Name the stage that limits the rate: loader processes share their stages, the training process does not."""
    stages = list(stages)
    loader = [stage for stage in stages if stage.where == "loader"]
    slowest = max(loader, key=_seconds_of)
    transfer = next(stage for stage in stages if stage.where == "training")
    if workers and transfer.seconds > sum(map(_seconds_of, loader)) / workers:
        return transfer.name
    return slowest.name


def advise(rates: Iterable[LoaderRate], chosen: LoaderRate, *, bounding: str, cores: int) -> str:
    """Say in words what to do."""
    text = f"Use --workers {chosen.workers}: {chosen.utterances_per_second:,.0f} utterances/s"
    if chosen.headroom is not None:
        enough = "enough" if chosen.headroom >= 1 else "NOT enough"
        text += f", {chosen.headroom:.1f} times what the training step takes: {enough}"
    cures = {
        "read": "copy the shards to a faster or a local disk",
        "verify": "checksums are computed at the speed of memory; more processes help",
        "decode": "store the dataset with --codec npy instead of flac",
        "augment": "use the kinds noise and gain instead of AddGaussianNoise and Gain, or fewer augmentations",
        "collate": "use --sample-format int16, which halves the bytes written",
        "transfer": "use --sample-format int16, which halves the bytes between processes",
    }
    best = max(rate.workers for rate in rates)
    more = "" if best < cores else f" As many processes as cores were tried, {cores}."
    return f"{text}. The loader's costliest stage is {bounding}; if that is too slow: {cures[bounding]}.{more}"


def describe_machine() -> dict[str, Any]:
    """Return what a speed depends on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": models[0] if models else platform.processor(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("numpy", "torch", "webdataset", "audiomentations")},
    }


def _seconds_of(stage: StageTime) -> float:
    return stage.seconds


def _ignore(_text: str) -> None:
    """Do nothing: the default progress."""
