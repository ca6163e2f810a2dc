"""The loader: a WebDataset pipeline of stages over plain dict records, and the processes that run it.

    plan        Timetable       -> records that say which utterance stands in which row of which step
    read        Source          -> + "__key__", "__url__", "raw": its bytes, checked
    decode                      -> + "waveform", "text", "language", "task", "prompt", "phrases", "json"
    augment                     -> "waveform" augmented, keyed by (seed, epoch, key)
    <your stages>               any callable from an iterator of records to an iterator of records
    collate                     -> Batch

Worker j of J makes every J-th step, and the training process takes them in turn: whole batches cross between
processes, in exact order, whatever the number of workers.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Literal

import numpy as np
import webdataset as wds
from numpy.typing import NDArray

from whisper_shard.config.stream import StreamConfig
from whisper_shard.dataset.index import Dataset, IndexReader
from whisper_shard.dataset.sources.open import check_sources, open_sources
from whisper_shard.dataset.sources.protocol import Source, SourceCounts
from whisper_shard.errors import DatasetError, EnvironmentFault
from whisper_shard.stream.augment.transforms import Augmentation, build_augmentations
from whisper_shard.stream.batch import Batch
from whisper_shard.stream.buffers import Receiver
from whisper_shard.stream.delivery import MODULUS, Planned, sum_hashes
from whisper_shard.stream.evaluation_order import ALL_STEPS
from whisper_shard.stream.plan import PLAN_VERSION
from whisper_shard.stream.processes import Running, is_death, is_timeout, pull, start_fork_server
from whisper_shard.stream.read_ahead import ReadAhead
from whisper_shard.stream.resume import PlanState
from whisper_shard.stream.run_buffer import RunBuffer
from whisper_shard.stream.runs import RunSequence
from whisper_shard.stream.stages import (
    AugmentStage,
    CollateStage,
    DecodeStage,
    Failure,
    PlanStage,
    ReadStage,
    Stage,
    Turns,
    pass_errors,
)
from whisper_shard.stream.timetable import Step, Timetable

log = logging.getLogger(__name__)
_NAMED_SHARDS = 3  # as many as fit into a line
_PIECE = 1 << 20  # utterances whose hashes are in memory at a time
BYTES_PER_MB = 1_000_000
"""As `--read-ahead-mb` counts."""
"""How loader processes start. Never fork: a forked child inherits locks and threads of the training process."""


class Loader:
    """Batches of one rank, from a place in the stream to its end."""

    def __init__(
        self,
        timetable: Timetable,
        *,
        pipeline: wds.DataPipeline,
        start: PlanState,
        stop_epoch: int | None,
        buffer: RunBuffer | None = None,
        open_source: Callable[[Dataset], Source] | None = None,
        pin_memory: bool = False,
    ) -> None:
        self.pipeline = pipeline
        """The stages, a ``wds.DataPipeline``."""
        self.start = start
        """Where the stream begins."""
        self._timetable = timetable
        self._stop_epoch = stop_epoch
        self._buffer = buffer
        self._open_source = open_source or open_sources(timetable.config)
        self._counts = SourceCounts()
        self._read_ahead: ReadAhead | None = None
        self._pin_memory = pin_memory
        self._iteration = object()
        self._running: Running | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Batches in every epoch."""
        return self._timetable.steps

    def __len__(self) -> int:
        """Batches from start to end.

        Raises:
            TypeError: The stream has no end.
        """
        if self._stop_epoch is None:
            raise TypeError("this loader is endless; pass epochs=")
        return max(0, (self._stop_epoch - self.start.epoch) * self.steps_per_epoch - self.start.step)

    @property
    def counts(self) -> SourceCounts:
        """What the processes of this rank have fetched from the shards since the iteration began."""
        return self._counts

    def state_after(self, batch: Batch) -> PlanState:
        """Return the state from which a new loader continues after ``batch``."""
        return self.start.at(batch.epoch, batch.step + 1)

    def planned(self, epoch: int, *, first_step: int = 0) -> Planned:
        """Return what all ranks together should get of an epoch, from a step on: a `Ledger` is compared with it."""
        count = digest = 0
        for numbers in self._timetable.utterances_from(Step(epoch=epoch, step=first_step)):
            count += len(numbers)
            for start in range(0, len(numbers), _PIECE):
                digest += sum_hashes(numbers[start : start + _PIECE])
        return Planned(utterances=count, digest=digest % MODULUS)

    def row_samples(self, epoch: int, step: int) -> list[NDArray[np.int64]]:
        """Return, for each rank, the planned lengths of its rows in a step, without augmentation; no padding rows."""
        lengths = []
        for rank in range(self._timetable.world):
            ends: dict[int, int] = {}
            for record in self._timetable.records(Step(epoch=epoch, step=step), rank=rank):
                ends[record["row"]] = ends.get(record["row"], 0) + record["gap"] + record["num_samples"]
            lengths.append(np.array(list(ends.values()), np.int64))
        return lengths

    def __iter__(self) -> Iterator[Batch]:
        """Yield batches in order, from the start, on every call; that ends an iteration begun before.

        Raises:
            WhisperShardError: A damaged utterance, too many of them, or a loader process that died.
            RuntimeError: Another iteration has ended this one.
        """
        self.close()
        config = self._timetable.config
        iteration = self._iteration = object()
        num_bad = 0
        for batch in self._batches():
            for fault in batch.faults:
                log.warning("skipped (epoch %d, step %d): %s", batch.epoch, batch.step, fault.message)
            num_bad += len(batch.faults)
            if num_bad > config.max_bad:
                raise DatasetError(
                    f"{num_bad} damaged utterances, --max-bad is {config.max_bad}; the last: {batch.faults[-1].message}"
                )
            yield batch
        if self._iteration is not iteration:
            raise RuntimeError("another iteration over this loader has begun and ended this one; open two loaders")

    def close(self) -> None:
        """Stop the loader processes."""
        if self._running is not None:
            self._running.close()
            self._running = None
        if self._read_ahead is not None:
            self._read_ahead.close()
            self._read_ahead = None

    def _batches(self) -> Iterator[Batch]:
        config = self._timetable.config
        workers = config.workers
        receiver = Receiver()
        with self._reading_ahead() as read_ahead:
            running: Running = (
                iter(self.pipeline)
                if workers == 0
                else pull(self.pipeline, workers=workers, prefetch=config.prefetch, timeout=config.load_timeout_seconds)
            )
            self._running = running
            last = None
            try:
                for item in running:
                    if isinstance(item, Failure):
                        raise item.error
                    batch = receiver.receive(item)
                    if read_ahead is not None:
                        read_ahead.release(self._timetable.number(Step(epoch=batch.epoch, step=batch.step)))
                        self._counts = read_ahead.counts
                    last = batch
                    yield batch.pin_memory() if self._pin_memory else batch
            except (RuntimeError, ConnectionError, FileNotFoundError, EOFError) as error:
                if is_timeout(error):
                    raise self._timeout_fault(last) from error
                if not workers or not is_death(error):
                    raise
                first_line = str(error).partition("\n")[0]
                raise EnvironmentFault(
                    f"a loader process died ({first_line}); if memory ran out, lower --workers; then run again"
                ) from error
            finally:
                running.close()
                if self._running is running:
                    self._running = None

    def _timeout_fault(self, last: Batch | None) -> EnvironmentFault:
        """Return the error for a batch that did not come in time: names what its process was reading."""
        timetable, config = self._timetable, self._timetable.config
        state = self.start if last is None else self.state_after(last)
        step = Step(epoch=state.epoch, step=state.step)
        readers = [(dataset, IndexReader(dataset)) for dataset in timetable.datasets]
        shards: dict[str, None] = {}
        for record in timetable.records(step):
            dataset, reader = readers[record["dataset"]]
            shards[str(dataset.shard_location(reader.locate(record["index_row"])[0]))] = None
        named = ", ".join(list(shards)[:_NAMED_SHARDS]) + (" ..." if len(shards) > _NAMED_SHARDS else "")
        return EnvironmentFault(
            f"no batch came from the loader processes for {config.load_timeout_seconds:g} s; the next, step "
            f"{step.step} of epoch {step.epoch}, reads {named}: check that these can be read and that "
            "augmentations end, or raise --load-timeout-seconds; then run again"
        )

    @contextmanager
    def _reading_ahead(self) -> Iterator[ReadAhead | None]:
        """Fill the buffer while batches are made."""
        self._counts = SourceCounts()
        if self._buffer is None:
            yield None
            return
        start = Step(epoch=self.start.epoch, step=self.start.step)
        runs = RunSequence(self._timetable, start, self._stop_epoch)
        sources = [self._open_source(dataset) for dataset in self._timetable.datasets]
        read_ahead = ReadAhead(
            self._buffer,
            runs,
            sources,
            first_step=self._timetable.number(start),
            lookahead=max(1, self._timetable.config.workers),
        )
        self._read_ahead = read_ahead
        with closing(read_ahead):
            yield read_ahead


def open_loader(
    datasets: Dataset | Sequence[Dataset],
    config: StreamConfig,
    *,
    state: PlanState | None = None,
    epochs: int | None = None,
    rank: int = 0,
    world: int = 1,
    augment: bool = True,
    stages: Sequence[Stage] = (),
    open_source: Callable[[Dataset], Source] | None = None,
    pin_memory: bool = False,
) -> Loader:
    """Stream training batches; one batch is this rank's part of one optimizer step.

    Args:
        datasets: One dataset, or several to be mixed.
        config: How.
        state: Where to continue; from the beginning if None. Ranks and workers may have changed since.
        epochs: Stop before this epoch (counted from the very beginning); None: never.
        rank: This rank, from 0.
        world: Number of ranks.
        augment: Apply the configured augmentations.
        stages: Your own stages, between augment and collate; module-level functions or objects, as they are pickled.
        open_source: Makes the source of a dataset, in the process that uses it; None: as the dataset's location and
            the settings of the cache say.
        pin_memory: Copy batches to page-locked memory.

    Raises:
        ConfigError: A batch that ranks cannot share, or augmentations that cannot be built.
        StateError: The state belongs to other data, seed or batch settings.
        EnvironmentFault: There is no room for the cache.
    """
    datasets = (datasets,) if isinstance(datasets, Dataset) else tuple(datasets)
    check_sources(datasets, config)
    if config.workers:
        start_fork_server()  # it imports torch while the caller loads a model, say
    timetable = Timetable(datasets, config, rank=rank, world=world)
    begin = first_state(timetable)
    if state is not None:
        begin.check(state)
        begin = begin.at(state.epoch, state.step)
    turns = Turns(timetable=timetable, start=Step(epoch=begin.epoch, step=begin.step), stop_epoch=epochs)
    augmentations = build_augmentations(config.augment) if augment else ()
    buffer = RunBuffer(config.read_ahead_mb * BYTES_PER_MB, is_shared=config.workers > 0)
    pipeline = build_pipeline(turns, buffer, augmentations=augmentations, stages=stages, open_source=open_source)
    return Loader(
        timetable,
        pipeline=pipeline,
        start=begin,
        stop_epoch=epochs,
        buffer=buffer,
        open_source=open_source,
        pin_memory=pin_memory,
    )


def open_evaluation(
    dataset: Dataset,
    *,
    batch_size: int,
    rank: int = 0,
    world: int = 1,
    limit: int = 0,
    steps: slice = ALL_STEPS,
    workers: int = 0,
    bad_record: Literal["raise", "skip"] = "raise",
    open_source: Callable[[Dataset], Source] | None = None,
) -> Loader:
    """Stream every utterance of a dataset exactly once, shortest first, without augmentation.

    Args:
        dataset: What to evaluate on.
        batch_size: Utterances a batch on each rank; the last batch is filled up with rows of weight 0.
        rank: This rank, from 0.
        world: Number of ranks.
        limit: Number of utterances, always the same ones; 0: all.
        steps: Only these batches, numbered from the shortest utterances on.
        workers: Loader processes.
        bad_record: See `StreamConfig`.
        open_source: Makes the source of the dataset, in the process that uses it; None: as its location says.
    """
    config = StreamConfig(batch_size=batch_size * world, workers=workers, augment=(), bad_record=bad_record)
    timetable = Timetable((dataset,), config, rank=rank, world=world, evaluation_limit=limit, evaluation_steps=steps)
    turns = Turns(timetable=timetable, start=Step(epoch=0, step=0), stop_epoch=1)
    buffer = RunBuffer(config.read_ahead_mb * BYTES_PER_MB, is_shared=config.workers > 0)
    pipeline = build_pipeline(turns, buffer, open_source=open_source)
    return Loader(
        timetable,
        pipeline=pipeline,
        start=first_state(timetable),
        stop_epoch=1,
        buffer=buffer,
        open_source=open_source,
    )


def build_pipeline(
    turns: Turns,
    buffer: RunBuffer,
    *,
    augmentations: tuple[Augmentation, ...] = (),
    stages: Sequence[Stage] = (),
    open_source: Callable[[Dataset], Source] | None = None,
) -> wds.DataPipeline:
    """Put the stages of the module docstring together."""
    timetable = turns.timetable
    config = timetable.config
    skip = config.bad_record == "skip"
    open_source = open_source or open_sources(config)
    by_step = any(weight > 1 for weight in config.weights)
    augment = [AugmentStage(augmentations=augmentations, seed=config.seed, by_step=by_step)] if augmentations else []
    return wds.DataPipeline(
        PlanStage(turns=turns),
        ReadStage(turns=turns, open_source=open_source, buffer=buffer, skip=skip, copy=bool(stages)),
        DecodeStage(skip=skip),
        *augment,
        *stages,
        CollateStage(turns=turns, dtype=config.sample_format),
        pass_errors,
    )


def first_state(timetable: Timetable) -> PlanState:
    """Return the state of a stream at its very beginning."""
    config = timetable.config
    return PlanState(
        plan_version=PLAN_VERSION,
        index_sha256="+".join(dataset.index_sha256 for dataset in timetable.datasets),
        seed=config.seed,
        batch_size=config.batch_size,
        batch_seconds=config.batch_seconds,
        length_buckets=config.length_buckets,
        weights=tuple(config.weights),
        pack_by=config.pack_by,
        pack_gap_seconds=config.pack_gap_seconds,
        pack_share=config.pack_share,
        steps_per_epoch=timetable.steps,
    )
