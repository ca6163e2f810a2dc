"""Records become a batch: rows of one length, padded with zeros, shortest first.

Letters of shapes, here and in all that follows: B rows in a batch, S samples, T frames, M mel bins, L label tokens.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from whisper_shard.formats.shard import to_int16
from whisper_shard.utterance import SAMPLE_RATE

Record = dict[str, Any]
"""What flows through the stages: a plain dict, as everywhere in WebDataset."""
NewBuffer = Callable[[int, int, Any], NDArray[Any]]
"""(rows, samples, dtype) -> an array to fill; its contents are arbitrary."""

_INT16_SCALE = np.float32(1.0 / 32768.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """One utterance within a row."""

    key: str
    """Its key in the dataset."""
    text: str
    """Its transcript."""
    start_seconds: float
    """Where it begins in the row."""
    end_seconds: float
    """Where it ends in the row."""


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
    """The utterances of each row; more than one only in packed windows."""
    epoch: int
    """Epoch, from 0."""
    step: int
    """Step within the epoch, from 0."""
    ids: tuple[int, ...] = ()
    """Numbers of the delivered utterances, counted over all datasets in order."""
    faults: tuple[Fault, ...] = ()
    """Utterances that were skipped because they are damaged."""

    def pin_memory(self) -> "Batch":
        """Return the batch with its tensors in page-locked memory, from which a GPU copies without waiting."""
        return replace(
            self,
            waveforms=self.waveforms.pin_memory(),
            num_samples=self.num_samples.pin_memory(),
            weights=self.weights.pin_memory(),
        )


def collate(records: Sequence[Record], *, rows: int, epoch: int, step: int, dtype: str, new_buffer: NewBuffer) -> Batch:
    """Make a batch of a step's records.

    Args:
        records: The records of the step; ``row`` tells which share a row, in order of appearance.
        rows: Rows of the batch; those without a record become padding of weight 0.
        epoch: Epoch of the step.
        step: Step within the epoch.
        dtype: ``float32`` or ``int16``.
        new_buffer: Where the waveforms are laid out.
    """
    by_row: list[list[Record]] = [[] for _ in range(rows)]
    for record in records:
        by_row[record["row"]].append(record)
    lengths = [sum(record["gap"] + len(record["waveform"]) for record in row) for row in by_row]
    order = sorted(range(rows), key=lengths.__getitem__)
    by_row, lengths = [by_row[i] for i in order], [lengths[i] for i in order]
    waveforms = new_buffer(rows, max(1, lengths[-1]) if rows else 1, dtype)
    segments = tuple(_lay_out(row, waveform) for row, waveform in zip(by_row, waveforms, strict=True))
    return Batch(
        waveforms=torch.from_numpy(waveforms),
        num_samples=torch.tensor(lengths, dtype=torch.int64),
        weights=torch.tensor([float(any(record["weight"] for record in row)) for row in by_row]),
        keys=tuple(row[0]["__key__"] if row else "" for row in by_row),
        texts=tuple(" ".join(segment.text for segment in row) for row in segments),
        languages=tuple(_first(row, "language") for row in by_row),
        tasks=tuple(_first(row, "task") for row in by_row),
        segments=segments,
        epoch=epoch,
        step=step,
        ids=tuple(record["id"] for row in by_row for record in row if record["fault"] is None),
        faults=tuple(record["fault"] for row in by_row for record in row if record["fault"] is not None),
    )


def _lay_out(row: Sequence[Record], out: NDArray[Any]) -> tuple[Segment, ...]:
    """Write a row's waveforms one after the other into ``out``, zeros elsewhere; return where they are."""
    position, segments = 0, []
    for record in row:
        start = position + record["gap"]
        out[position:start] = 0
        position = start + len(record["waveform"])
        copy_waveform(record["waveform"], out[start:position])
        if record["weight"]:
            segments.append(
                Segment(
                    key=record["__key__"],
                    text=record["text"],
                    start_seconds=start / SAMPLE_RATE,
                    end_seconds=position / SAMPLE_RATE,
                )
            )
    out[position:] = 0
    return tuple(segments)


def copy_waveform(waveform: NDArray[Any], out: NDArray[Any]) -> None:
    """Write int16 or float32 samples into a row of either kind, in one pass where no rounding is needed."""
    if waveform.dtype == out.dtype:
        np.copyto(out, waveform)
    elif out.dtype == np.int16:
        np.copyto(out, to_int16(waveform))
    else:
        np.multiply(waveform, _INT16_SCALE, out=out, dtype=np.float32)


def to_float32(waveform: NDArray[Any]) -> NDArray[np.float32]:
    """Return samples as float32 in [-1, 1]; a float32 waveform is returned as it is."""
    if waveform.dtype == np.float32:
        return waveform
    scaled: NDArray[np.float32] = np.multiply(waveform, _INT16_SCALE, dtype=np.float32)
    return scaled


def _first(row: Sequence[Mapping[str, Any]], name: str) -> str | None:
    return next((record[name] for record in row if record[name] is not None), None)
