"""Is the loader fast enough here, and if not, what bounds it?

Stages are measured apart, each over the same records in this process; then whole loaders with 0, 1, 2, ... processes,
as a training loop would pull them. The report names the stage that costs most and a setting to use.
"""

import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import webdataset as wds

from whisper_shard.config.tools import BenchConfig
from whisper_shard.dataset.index import Dataset
from whisper_shard.dataset.sources.local import LocalSource
from whisper_shard.errors import ConfigError
from whisper_shard.stream.augment.transforms import build_augmentations
from whisper_shard.stream.batch import Batch, Record
from whisper_shard.stream.buffers import Parcel, SharedBuffers
from whisper_shard.stream.loader import Loader, first_state, open_loader
from whisper_shard.stream.read_ahead import RunBuffer
from whisper_shard.stream.stages import AugmentStage, CollateStage, DecodeStage, ReadStage, Turns
from whisper_shard.stream.timetable import Step, Timetable
from whisper_shard.utterance import SAMPLE_RATE

Progress = Callable[[str], None]
"""Is told, in a few words, what is being measured."""
LogMel = Callable[[torch.Tensor], Any]
"""Computes the log-mel spectrogram of waveforms (B, S) on the device and waits for it."""
_SAMPLE_MB = 96  # waveforms on which stages are measured
_WARM_UP = 4  # batches that are not counted, for each process
_GOOD_SHARE = 0.9  # of the best rate: enough to recommend fewer processes
_MARGIN = 1.2  # times the training step's need


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTime:
    """What one stage costs."""

    name: str
    """read, verify, decode, augment, collate, transfer or log_mel."""
    seconds: float
    """Seconds an utterance, in one process."""
    where: str
    """``loader`` (each loader process), ``training`` (the training process) or ``device``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoaderRate:
    """How fast batches come with some number of loader processes."""

    workers: int
    """Loader processes."""
    utterances_per_second: float
    """Rate."""
    audio_hours_per_second: float
    """Rate, padding not counted."""
    mb_per_second: float
    """Bytes of audio and JSON read from the shards, in 10^6."""
    first_batch_seconds: float
    """From opening the loader to its first batch."""
    wait_p50_seconds: float
    """Median time the training process waits for a batch it asks for at once."""
    wait_p99_seconds: float
    """99th percentile of the same."""
    headroom: float | None
    """Training step time over loader time a step; above 1 the loader keeps up. None without a step time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchReport:
    """What a benchmark found."""

    dataset: str
    """Folder, or folders that are mixed."""
    num_utterances: int
    """In the data."""
    hours: float
    """In the data."""
    batch_utterances: float
    """Mean utterances a step."""
    padding_share: float
    """Share of all samples of the batches that is padding, 0 to 1."""
    step_seconds: float | None
    """Training step time, where known."""
    stages: tuple[StageTime, ...]
    """In order of the pipeline."""
    rates: tuple[LoaderRate, ...]
    """In order of loader processes."""
    bounding_stage: str
    """The stage that costs most in the recommended setting."""
    recommended_workers: int
    """Fewest loader processes that are enough."""
    advice: str
    """One or two sentences."""
    machine: dict[str, Any]
    """Cores, processor, versions."""

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain JSON values."""
        return asdict(self)


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
        progress: Told what is being measured.
        log_mel: If given, measured as a stage; it lives on a higher floor.

    Raises:
        ConfigError: The data is empty, or no time is given to measure in.
    """
    folders = " + ".join(str(dataset.folder) for dataset in datasets)
    if not any(dataset.num_utterances for dataset in datasets):
        raise ConfigError(f"{folders}: the dataset is empty, there is nothing to measure")
    if config.seconds <= 0:
        raise ConfigError(f"--seconds is {config.seconds:g}; it must be above 0")
    tell = progress or _tell_nobody
    stages = measure_stages(datasets, config, tell, log_mel=log_mel)
    cores = len(os.sched_getaffinity(0))
    most = cores if config.max_workers < 0 else config.max_workers
    rates, padding, per_batch = [], 0.0, 0.0
    for workers in range(most + 1):
        tell(f"loader with {workers} process{'es' * (workers != 1)}")
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
        bounding_stage=bounding,
        recommended_workers=chosen.workers,
        advice=advise(rates, chosen, bounding=bounding, cores=cores),
        machine=describe_machine(),
    )


def measure_stages(
    datasets: Sequence[Dataset], config: BenchConfig, progress: Progress, *, log_mel: LogMel | None
) -> tuple[StageTime, ...]:
    """Measure each stage apart; the median of several rounds over the same records."""
    timetable = Timetable(datasets, config)
    records = _some_records(timetable)
    augmentations = build_augmentations(config.augment)
    clock = _Clock()
    augment = AugmentStage(augmentations=augmentations, seed=config.seed, by_step=False)
    deadline = time.perf_counter() + config.seconds
    rounds = 0
    while rounds < 2 or time.perf_counter() < deadline:
        progress(f"stages, round {rounds + 1}")
        batch = _one_round(timetable, records, augment, clock, log_mel)
        rounds += 1
    progress("transfer between processes")
    seconds = clock.median_seconds(len(records))
    seconds["transfer"] = _measure_transfer(timetable, batch, config.seconds / 2)
    places = {"transfer": "training", "log_mel": "device"}
    names = [
        name for name in ("read", "verify", "decode", "augment", "collate", "transfer", "log_mel") if name in seconds
    ]
    return tuple(StageTime(name=name, seconds=seconds[name], where=places.get(name, "loader")) for name in names)


def measure_rate(datasets: Sequence[Dataset], config: BenchConfig, workers: int) -> tuple[LoaderRate, float, float]:
    """Pull batches as fast as they come; return the rate, the share of padding and the utterances a batch."""
    loader = open_loader(datasets, replace(config, workers=workers))
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


class _Clock:
    """Adds up seconds by name, round by round."""

    def __init__(self) -> None:
        self._rounds: list[dict[str, float]] = [{}]

    def add(self, name: str, seconds: float) -> None:
        self._rounds[-1][name] = self._rounds[-1].get(name, 0.0) + seconds

    def time(self, name: str, function: Callable[..., Any], *arguments: Any) -> Any:
        started = time.perf_counter()
        result = function(*arguments)
        self.add(name, time.perf_counter() - started)
        return result

    def end_round(self) -> None:
        self._rounds.append({})

    def median_seconds(self, num_utterances: int) -> dict[str, float]:
        rounds = [one for one in self._rounds[1:] if one]  # the first round warms the caches
        return {name: float(np.median([one[name] for one in rounds])) / num_utterances for name in rounds[0]}


class _TimedSource(LocalSource):
    """A local source that knows how long it has read."""

    seconds = 0.0

    def read(self, shard: int, offset: int, num_bytes: int) -> bytes:
        started = time.perf_counter()
        data = super().read(shard, offset, num_bytes)
        self.seconds += time.perf_counter() - started
        return data


class _TimedSources:
    """Opens sources, and knows how long all of them have read."""

    def __init__(self) -> None:
        self._opened: list[_TimedSource] = []

    def open(self, dataset: Dataset) -> _TimedSource:
        self._opened.append(_TimedSource(dataset))
        return self._opened[-1]

    @property
    def seconds(self) -> float:
        return sum(source.seconds for source in self._opened)


@dataclass(frozen=True, slots=True, kw_only=True)
class _RepeatStage:
    """Sends the same batch again and again, without filling its waveforms: what is left is the cost of sending."""

    batch: Batch
    shape: tuple[int, int]
    dtype: str

    def __call__(self) -> Iterator[Batch | Parcel]:
        buffers = SharedBuffers(0)
        while True:
            waveforms = torch.from_numpy(buffers.take(*self.shape, self.dtype))
            yield buffers.send(replace(self.batch, waveforms=waveforms))


def _some_records(timetable: Timetable) -> list[Record]:
    """Return the records of the first steps, about `_SAMPLE_MB` of audio and at least one step."""
    records: list[Record] = []
    for place in timetable.places(Step(epoch=0, step=0), 1, worker=0, workers=1):
        records += timetable.records(place)
        if sum(2 * record["num_samples"] for record in records) > _SAMPLE_MB * 1e6:
            break
    return records


def _one_round(
    timetable: Timetable, records: list[Record], augment: AugmentStage, clock: _Clock, log_mel: LogMel | None
) -> Batch:
    """Send the records through the stages one stage after the other; return the last batch."""
    sources = _TimedSources()
    skip = timetable.config.bad_record == "skip"
    turns = Turns(timetable=timetable, start=Step(epoch=0, step=0), stop_epoch=1)
    read = ReadStage(turns=turns, open_source=sources.open, buffer=RunBuffer(0), skip=skip, copy=False)
    started = time.perf_counter()
    raw = list(read(dict(record) for record in records))
    clock.add("read", sources.seconds)
    clock.add("verify", time.perf_counter() - started - sources.seconds)
    decoded = clock.time("decode", list, DecodeStage(skip=skip)(raw))
    disturbed = clock.time("augment", list, augment(decoded)) if augment.augmentations else decoded
    batches = CollateStage(turns=turns, dtype=timetable.config.sample_format)(disturbed)
    for _ in range(records[-1]["step"] + 1):
        batch: Batch = clock.time("collate", next, batches)
        if log_mel is not None:
            clock.time("log_mel", log_mel, batch.waveforms)
    clock.end_round()
    return batch


def _measure_transfer(timetable: Timetable, batch: Batch, seconds: float) -> float:
    """Return the seconds an utterance that the training process spends on receiving batches."""
    rows, samples = batch.waveforms.shape
    small = replace(batch, waveforms=torch.zeros(0))
    repeat = _RepeatStage(batch=small, shape=(rows, samples), dtype=timetable.config.sample_format)
    one_worker = Timetable(timetable.datasets, replace(timetable.config, workers=1))
    loader = Loader(one_worker, pipeline=wds.DataPipeline(repeat), start=first_state(timetable), stop_epoch=None)
    batches = iter(loader)
    for _ in range(_WARM_UP):
        next(batches)
    started = now = time.perf_counter()
    count = 0
    while now - started < seconds:
        next(batches)
        count += 1
        now = time.perf_counter()
    loader.close()
    return (now - started) / count / max(len(batch.ids), 1)


def _seconds_of(stage: StageTime) -> float:
    return stage.seconds


def _tell_nobody(_text: str) -> None:
    """Keep progress to oneself."""
