"""The stages of the pipeline: each a callable from an iterator of records to an iterator of records.

Each is a frozen object whose fields are its settings, so that it can be sent to a loader process; files are opened
there, when the stage begins.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from torch.utils.data import get_worker_info

from whisper_shard.dataset.index import Dataset
from whisper_shard.dataset.reader import RawUtterance, UtteranceReader, decode_audio, decode_json, open_reader
from whisper_shard.dataset.sources.protocol import Source
from whisper_shard.errors import DatasetError, WhisperShardError
from whisper_shard.stream.augment.transforms import Augmentation, augment_speech
from whisper_shard.stream.batch import Batch, BatchBuilder, Fault, Record
from whisper_shard.stream.buffers import LocalBuffers, Parcel, SharedBuffers
from whisper_shard.stream.read_ahead import StepReader, StepSource
from whisper_shard.stream.run_buffer import RunBuffer
from whisper_shard.stream.runs import RunSequence
from whisper_shard.stream.timetable import Step, Timetable
from whisper_shard.utterance import MAX_SAMPLES, parse_phrases

Stage = Callable[[Iterable[Record]], Iterator[Record]]
"""A stage of the pipeline: records in, records out. A record it drops becomes a row of weight 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turns:
    """The steps of a run, distributed over the loader processes in turn."""

    timetable: Timetable
    """What stands on a step."""
    start: Step
    """First step of the run."""
    stop_epoch: int | None
    """Epoch before which the run ends; None: never."""

    def __iter__(self) -> Iterator[Step]:
        """Yield the steps of this process."""
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        return self.timetable.places(self.start, self.stop_epoch, worker=worker, workers=workers)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanStage:
    """First stage: yield a record for each utterance of each step."""

    turns: Turns
    """Steps of this process."""

    def __call__(self) -> Iterator[Record]:
        """Yield a record for each utterance."""
        for step in self.turns:
            yield from self.turns.timetable.records(step)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadStage:
    """Second stage: fetch bytes."""

    turns: Turns
    """Steps of this process."""
    open_source: Callable[[Dataset], Source]
    """Makes a source in the process that uses it."""
    buffer: RunBuffer
    """Where the training process reads ahead."""
    skip: bool
    """Let damaged utterances pass as faults of weight 0."""
    copy: bool
    """Give every record bytes of its own: stages of users may keep records longer than the buffer keeps theirs."""

    def __call__(self, records: Iterable[Record]) -> Iterator[Record]:
        """Add key, place and checked bytes to each record."""
        timetable = self.turns.timetable
        steps = self._open_steps()
        readers = [
            [open_reader(dataset, StepSource(steps=steps, dataset=place, is_direct=direct)) for direct in (False, True)]
            for place, dataset in enumerate(timetable.datasets)
        ]
        try:
            for record in records:
                steps.advance(timetable.number(Step(epoch=record["epoch"], step=record["step"])))
                ahead, direct = readers[record["dataset"]]
                try:
                    raw = self._read(ahead, direct, record["index_row"])
                except DatasetError as error:
                    if not self.skip:
                        raise
                    yield _faulty(record, direct.index.key(record["index_row"]), error)
                    continue
                yield {**record, "__key__": raw.key, "__url__": raw.path, "raw": raw, "fault": None, "weight": 1.0}
        finally:
            steps.close()

    def _open_steps(self) -> StepReader:
        turns, worker = self.turns, get_worker_info()
        return StepReader(
            self.buffer,
            RunSequence(turns.timetable, turns.start, turns.stop_epoch),
            [self.open_source(dataset) for dataset in turns.timetable.datasets],
            first_step=turns.timetable.number(turns.start),
            worker=worker.id if worker else 0,
        )

    def _read(self, ahead: UtteranceReader, direct: UtteranceReader, row: int) -> RawUtterance:
        """Read an utterance; where its bytes are wrong, once more from the source: they may be right in the shard."""
        try:
            raw = ahead.read(row)
        except DatasetError:
            return direct.read(row)
        return replace(raw, audio=memoryview(bytes(raw.audio)), json=memoryview(bytes(raw.json))) if self.copy else raw


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeStage:
    """Third stage: bytes become a waveform (int16, not copied; float32 of a foreign tar), a text and metadata."""

    skip: bool
    """Let damaged utterances pass as faults of weight 0."""

    def __call__(self, records: Iterable[Record]) -> Iterator[Record]:
        """Replace ``raw`` by what it holds."""
        for record in records:
            if record["fault"] is not None:
                yield record
                continue
            raw = record.pop("raw")
            try:
                waveform, known = decode_audio(raw), decode_json(raw)
            except DatasetError as error:
                if not self.skip:
                    raise
                yield _faulty(record, raw.key, error)
                continue
            record["waveform"] = waveform
            record["text"] = known["text"]
            record["language"], record["task"] = known.get("language"), known.get("task")
            record["prompt"] = known.get("prompt")
            record["phrases"] = parse_phrases(known.get("segments"), known["text"])
            record["json"] = known
            yield record


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentStage:
    """Fourth stage, in training only: augment waveforms."""

    augmentations: tuple[Augmentation, ...]
    """In order."""
    seed: int
    """Seed of the run."""
    by_step: bool
    """An epoch may deliver an utterance twice, and each time shall sound different."""

    def __call__(self, records: Iterable[Record]) -> Iterator[Record]:
        """Augment each waveform, with random numbers keyed by seed, epoch and utterance."""
        for record in records:
            if record["weight"]:
                repeat = record["step"] if self.by_step else 0
                key = (self.seed, record["epoch"], repeat, record["dataset"], record["__key__"])
                max_samples = 0 if record["packed"] else MAX_SAMPLES
                record["waveform"], record["silent_samples"] = augment_speech(
                    record["waveform"], self.augmentations, max_samples=max_samples, key=key
                )
            yield record


@dataclass(frozen=True, slots=True, kw_only=True)
class CollateStage:
    """Last stage: the records of a step become its batch, rows that got none are padding."""

    turns: Turns
    """Steps of this process."""
    dtype: str
    """``float32`` or ``int16``."""

    def __call__(self, records: Iterable[Record]) -> Iterator[Batch | Parcel]:
        """Yield a batch for each step, also where no record is left of it."""
        buffers = _new_buffers()
        records = iter(records)
        waiting = next(records, None)
        for place in self.turns:
            builder = BatchBuilder(
                rows=self.turns.timetable.rows(place),
                epoch=place.epoch,
                step=place.step,
                dtype=self.dtype,
                new_buffer=buffers.take,
            )
            while waiting is not None and (waiting["epoch"], waiting["step"]) == (place.epoch, place.step):
                builder.add(waiting)
                waiting = next(records, None)
            yield buffers.send(builder.finish())


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """An error on its way from a loader process to the training process, in its place in the order."""

    error: WhisperShardError
    """What happened."""


def pass_errors(batches: Iterable[Batch | Parcel]) -> Iterator[Batch | Parcel | Failure]:
    """Yield an error instead of raising it, so that it stays one line and arrives in order."""
    try:
        yield from batches
    except WhisperShardError as error:
        yield Failure(error=error)


def _new_buffers() -> LocalBuffers | SharedBuffers:
    info = get_worker_info()
    return SharedBuffers(info.id) if info else LocalBuffers()


def _faulty(record: Record, key: str, error: DatasetError) -> Record:
    """Return the record of a damaged utterance: it keeps its place, and weighs nothing."""
    return {
        **record,
        "__key__": key,
        "__url__": "",
        "waveform": np.empty(0, np.int16),
        "text": "",
        "language": None,
        "task": None,
        "prompt": None,
        "phrases": (),
        "json": {},
        "weight": 0.0,
        "fault": Fault(id=record["id"], key=key, message=str(error)),
    }
