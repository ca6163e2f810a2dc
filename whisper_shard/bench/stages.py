"""Each stage of the loader measured alone, over the same records in this process."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import webdataset as wds

from whisper_shard.bench.report import StageTime
from whisper_shard.config.stream import StreamConfig
from whisper_shard.config.tools import BenchConfig
from whisper_shard.dataset.index import Dataset
from whisper_shard.dataset.sources.open import open_sources
from whisper_shard.dataset.sources.protocol import Source, SourceCounts
from whisper_shard.stream.augment.transforms import build_augmentations
from whisper_shard.stream.batch import Batch, Record
from whisper_shard.stream.buffers import Parcel, SharedBuffers
from whisper_shard.stream.loader import Loader, first_state
from whisper_shard.stream.run_buffer import RunBuffer
from whisper_shard.stream.stages import AugmentStage, CollateStage, DecodeStage, ReadStage, Turns
from whisper_shard.stream.timetable import Step, Timetable

Progress = Callable[[str], None]
"""Called with a few words on what is being measured."""
LogMel = Callable[[torch.Tensor], Any]
"""Computes the log-mel spectrogram of waveforms (B, S) on the device and waits for it."""
_SAMPLE_MB = 96  # waveforms on which stages are measured
_WARM_UP = 4  # batches that are not counted, for each process


def measure_stages(
    datasets: Sequence[Dataset], config: BenchConfig, progress: Progress, *, log_mel: LogMel | None
) -> tuple[StageTime, ...]:
    """Measure each stage apart; the median of several rounds over the same records."""
    timetable = Timetable(datasets, config.stream)
    records = _some_records(timetable)
    augmentations = build_augmentations(config.stream.augment)
    clock = _Clock()
    augment = AugmentStage(augmentations=augmentations, seed=config.stream.seed, by_step=False)
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


class _TimedSource:
    """A source that knows how long it has read."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.threads, self.ahead_bytes = source.threads, source.ahead_bytes
        self.is_local, self.advise, self.close = source.is_local, source.advise, source.close
        self.seconds = 0.0

    @property
    def counts(self) -> SourceCounts:
        return self._source.counts

    def read(self, shard: int, offset: int, num_bytes: int) -> bytes | memoryview:
        started = time.perf_counter()
        data = self._source.read(shard, offset, num_bytes)
        self.seconds += time.perf_counter() - started
        return data


class _TimedSources:
    """Opens sources, and knows how long all of them have read."""

    def __init__(self, config: StreamConfig) -> None:
        self._open = open_sources(config)
        self._opened: list[_TimedSource] = []

    def open(self, dataset: Dataset) -> _TimedSource:
        self._opened.append(_TimedSource(self._open(dataset)))
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
    sources = _TimedSources(timetable.config)
    skip = timetable.config.bad_record == "skip"
    turns = Turns(timetable=timetable, start=Step(epoch=0, step=0), stop_epoch=1)
    read = ReadStage(turns=turns, open_source=sources.open, buffer=RunBuffer(0), skip=skip, copy=False)
    started = time.perf_counter()
    raw = list(read(dict(record) for record in records))
    clock.add("read", sources.seconds)
    clock.add("verify", time.perf_counter() - started - sources.seconds)
    decoded = clock.time("decode", list, DecodeStage(skip=skip)(raw))
    augmented = clock.time("augment", list, augment(decoded)) if augment.augmentations else decoded
    batches = CollateStage(turns=turns, dtype=timetable.config.sample_format)(augmented)
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
