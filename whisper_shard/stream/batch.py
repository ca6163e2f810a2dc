"""Records become a batch: rows of one length, padded with zeros, shortest first.

Letters of shapes, here and in all that follows: B rows in a batch, S samples, T frames, M mel bins, L label tokens.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from whisper_shard.audio.samples import copy_waveform
from whisper_shard.utterance import SAMPLE_RATE, Segment

Record = dict[str, Any]
"""What flows through the stages: a plain dict, as everywhere in WebDataset."""
NewBuffer = Callable[[int, int, Any], NDArray[Any]]
"""(rows, samples, dtype) -> an array to fill; its contents are arbitrary."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A damaged utterance that was skipped."""

    id: int
    """Its number, counted over all datasets in order."""
    key: str
    """Its key, where the index could be read."""
    message: str
    """What is wrong with it, in one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One rank's part of one optimizer step; rows are sorted by length, shortest first."""

    waveforms: torch.Tensor
    """(B, S) float32 in [-1, 1], or int16 where asked for; zeros after each row's end."""
    num_samples: torch.Tensor
    """(B,) int64, length of each row."""
    weights: torch.Tensor
    """(B,) float32; 0 marks declared padding and rows whose utterances are damaged."""
    keys: tuple[str, ...]
    """Key of each row's first utterance; empty for padding."""
    texts: tuple[str, ...]
    """Transcript of each row."""
    languages: tuple[str | None, ...]
    """Language of each row, where the data says it."""
    tasks: tuple[str | None, ...]
    """Task of each row, where the data says it."""
    segments: tuple[tuple[Segment, ...], ...]
    """The texts of each row with their times: one an utterance, or one a phrase where the data has `segments`; none of
    utterances without a text."""
    epoch: int
    """Epoch, from 0."""
    step: int
    """Step within the epoch, from 0."""
    ids: tuple[int, ...] = ()
    """Numbers of the delivered utterances, counted over all datasets in order."""
    faults: tuple[Fault, ...] = ()
    """Utterances that were skipped because they are damaged."""
    prompts: tuple[str | None, ...] = ()
    """What was said before each row, where the data has a column `prompt`."""

    def as_dict(self) -> dict[str, Any]:
        """Return the batch in plain types, as other trainers move batches to a device: tensors, lists, texts, numbers.

        Tensors are shared with the batch, not copied. A segment becomes a dict.
        """
        plain: dict[str, Any] = {field.name: _plain(getattr(self, field.name)) for field in fields(self)}
        return plain

    def pin_memory(self) -> "Batch":
        """Return the batch with its tensors in page-locked memory, from which a GPU copies without waiting."""
        return replace(
            self,
            waveforms=self.waveforms.pin_memory(),
            num_samples=self.num_samples.pin_memory(),
            weights=self.weights.pin_memory(),
        )


class BatchBuilder:
    """Lays out the records of a step as they come, each while it is still in the processor's cache.

    The plan says how long every row will be. Where a stage changed a length or dropped a record, the rows are laid out
    once more, at their true lengths.
    """

    def __init__(self, *, rows: int, epoch: int, step: int, dtype: str, new_buffer: NewBuffer) -> None:
        """Begin a batch.

        Args:
            rows: Rows of the batch; those without a record become padding of weight 0.
            epoch: Epoch of the step.
            step: Step within the epoch.
            dtype: ``float32`` or ``int16``.
            new_buffer: Where the waveforms are laid out.
        """
        self._epoch = epoch
        self._step = step
        self._dtype = dtype
        self._new_buffer = new_buffer
        self._by_row: list[list[Record]] = [[] for _ in range(rows)]
        self._ends = [0] * rows
        self._waveforms = np.empty((rows, 0), dtype)
        self._is_planned = True

    def add(self, record: Record) -> None:
        """Put a record behind the others of its row."""
        row, waveform = record["row"], record["waveform"]
        self._by_row[row].append(record)
        start = self._ends[row] + record["gap"]
        end = self._ends[row] = start + len(waveform)
        self._is_planned = self._is_planned and len(waveform) == record["num_samples"]
        if self._is_planned:
            if not self._waveforms.shape[1]:
                self._waveforms = self._new_buffer(len(self._by_row), record["width"], self._dtype)
            out = self._waveforms[row]
            out[start - record["gap"] : start] = 0
            copy_waveform(waveform, out[start:end])
            # From here on the row is the only copy: the bytes that were read are free for the next record.
            record["waveform"] = out[start:end]

    def finish(self) -> Batch:
        """Return the batch, rows sorted by length."""
        order = sorted(range(len(self._by_row)), key=self._ends.__getitem__)
        ends = [self._ends[row] for row in order]
        width = max(1, *ends[-1:])
        if self._is_planned and width == self._waveforms.shape[1] and order == list(range(len(order))):
            waveforms = self._waveforms
        else:
            waveforms = self._new_buffer(len(order), width, self._dtype)
            for row, out in zip(order, waveforms, strict=True):
                _lay_out(self._by_row[row], out)
        for end, out in zip(ends, waveforms, strict=True):
            out[end:] = 0
        return self._batch([self._by_row[row] for row in order], ends, waveforms)

    def _batch(self, by_row: Sequence[Sequence[Record]], ends: Sequence[int], waveforms: NDArray[Any]) -> Batch:
        segments = tuple(_segments(row) for row in by_row)
        faults = [record["fault"] for row in by_row for record in row if record["fault"] is not None]
        return Batch(
            waveforms=torch.from_numpy(waveforms),
            num_samples=torch.tensor(ends, dtype=torch.int64),
            weights=torch.tensor([float(any(record["weight"] for record in row)) for row in by_row]),
            keys=tuple(row[0]["__key__"] if row else "" for row in by_row),
            texts=tuple(" ".join(segment.text for segment in row) for row in segments),
            languages=tuple(_first(row, "language") for row in by_row),
            tasks=tuple(_first(row, "task") for row in by_row),
            segments=segments,
            epoch=self._epoch,
            step=self._step,
            ids=tuple(record["id"] for row in by_row for record in row if record["fault"] is None),
            faults=tuple(faults),
            prompts=tuple(row[0]["prompt"] if row else None for row in by_row),
        )


def _lay_out(row: Sequence[Record], out: NDArray[Any]) -> None:
    position = 0
    for record in row:
        start = position + record["gap"]
        out[position:start] = 0
        position = start + len(record["waveform"])
        copy_waveform(record["waveform"], out[start:position])


def _segments(row: Sequence[Record]) -> tuple[Segment, ...]:
    segments, position = list[Segment](), 0
    for record in row:
        start = position + record["gap"]
        position = start + len(record["waveform"])
        if record["weight"]:
            end = position - record.get("silent_samples", 0)  # a timestamp marks the end of speech, not of silence
            segments += _timed_texts(record, start / SAMPLE_RATE, end / SAMPLE_RATE)
    return tuple(segments)


def _timed_texts(record: Record, start: float, end: float) -> Iterator[Segment]:
    """Yield the text of an utterance with its times in the row: each phrase, where their times are known.

    Nothing is yielded where nothing is said.
    """
    key = record["__key__"]
    if not record["phrases"] and record["text"].strip():
        yield Segment(key=key, text=record["text"], start_seconds=start, end_seconds=end)
    # An augmentation may have changed the speed.
    rate = (end - start) * SAMPLE_RATE / max(1, record["num_samples"])
    for phrase in record["phrases"]:
        times = (min(start + rate * time, end) for time in (phrase.start, phrase.end))
        yield Segment(key=key, text=phrase.text, start_seconds=next(times), end_seconds=next(times))


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


def _first(row: Sequence[Mapping[str, Any]], name: str) -> str | None:
    return next((record[name] for record in row if record[name] is not None), None)
