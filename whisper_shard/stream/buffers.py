"""Memory for waveforms that is used again and again, in one process or between two.

Fresh memory costs more than filling it, as the kernel clears each page of it, most of all in shared memory. So a
batch is laid out in a buffer that an earlier batch has left. A buffer is free again when the last tensor on it is
gone, views included: `torch.from_numpy` keeps the array it was given alive, and a finalizer on that array gives the
buffer back.

A loader process lays its batches out in shared memory. Such a buffer is sent to the training process once; after that
a batch is a small `Parcel` that names it.
"""

import weakref
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from whisper_shard.errors import EnvironmentFault
from whisper_shard.stream.batch import Batch

_SLOTS = 1024  # buffers a loader process can have under way; a prefetch of 2 needs about 5
_SPARE = 8  # free buffers a process keeps


class LocalBuffers:
    """Buffers for batches that stay in this process."""

    def __init__(self) -> None:
        self._free: list[NDArray[np.uint8]] = []

    def take(self, rows: int, samples: int, dtype: str) -> NDArray[Any]:
        """Return an array (rows, samples) with arbitrary contents."""
        num_bytes = rows * samples * np.dtype(dtype).itemsize
        # The one given back last: it is most likely still in the processor's cache.
        fitting = [place for place, buffer in enumerate(self._free) if len(buffer) >= num_bytes]
        buffer = self._free.pop(fitting[-1]) if fitting else np.empty(_capacity(num_bytes), np.uint8)
        array = buffer[:num_bytes].view(dtype).reshape(rows, samples)
        weakref.finalize(array, self._give_back, buffer).atexit = False
        return array

    def send(self, batch: Batch) -> "Batch | Parcel":
        """Return the batch: it goes nowhere."""
        return batch

    def _size_of(self, place: int) -> int:
        return len(self._free[place])

    def _give_back(self, buffer: NDArray[np.uint8]) -> None:
        self._free.append(buffer)
        if len(self._free) > _SPARE:
            self._free.pop(min(range(len(self._free)), key=self._size_of))


@dataclass(frozen=True, slots=True, kw_only=True)
class Parcel:
    """A batch on its way between processes: all but its waveforms, and where those are."""

    worker: int
    """Loader process."""
    slot: int
    """Its buffer."""
    buffer: torch.Tensor | None
    """The shared memory itself, the first time it is used."""
    busy: torch.Tensor | None
    """The process' marks of buffers in use, with each new buffer."""
    shape: tuple[int, int]
    """Of the waveforms."""
    dtype: str
    """Of the waveforms."""
    rest: Mapping[str, Any]
    """The other fields of the batch, tensors as arrays."""


class SharedBuffers:
    """Buffers of a loader process for batches that the training process uses."""

    def __init__(self, worker: int) -> None:
        self._worker = worker
        self._busy = _share(torch.zeros(_SLOTS, dtype=torch.uint8))
        self._marks = self._busy.numpy()
        self._buffers: list[torch.Tensor] = []
        self._sent: set[int] = set()
        self._taken: list[int] = []

    def take(self, rows: int, samples: int, dtype: str) -> NDArray[Any]:
        """Return an array (rows, samples) with arbitrary contents, in shared memory."""
        num_bytes = rows * samples * np.dtype(dtype).itemsize
        slot = self._choose(num_bytes)
        self._taken.append(slot)
        self._marks[slot] = 1
        array: NDArray[Any] = self._buffers[slot].numpy()[:num_bytes].view(dtype).reshape(rows, samples)
        return array

    def send(self, batch: Batch) -> Batch | Parcel:
        """Return the parcel for the batch whose array was taken last."""
        *unused, slot = self._taken
        self._marks[unused] = 0
        self._taken = []
        is_new = slot not in self._sent
        self._sent.add(slot)
        rest = {field.name: getattr(batch, field.name) for field in fields(batch) if field.name != "waveforms"}
        tensors = {"num_samples": batch.num_samples.numpy(), "weights": batch.weights.numpy()}
        rows, samples = batch.waveforms.shape
        return Parcel(
            worker=self._worker,
            slot=slot,
            buffer=self._buffers[slot] if is_new else None,
            busy=self._busy if is_new else None,
            shape=(rows, samples),
            dtype=str(batch.waveforms.numpy().dtype),
            rest=rest | tensors,
        )

    def _choose(self, num_bytes: int) -> int:
        free = [slot for slot in range(len(self._buffers)) if not self._marks[slot]]
        fitting = [slot for slot in free if len(self._buffers[slot]) >= num_bytes]
        if fitting:
            return fitting[0]
        if free:
            slot = min(free, key=self._size_of)
            self._sent.discard(slot)
            self._buffers[slot] = _new_shared(num_bytes)
            return slot
        if len(self._buffers) == _SLOTS:
            raise EnvironmentFault(f"{_SLOTS} batches of one loader process are held at once; let go of used batches")
        self._buffers.append(_new_shared(num_bytes))
        return len(self._buffers) - 1

    def _size_of(self, slot: int) -> int:
        return len(self._buffers[slot])


class Receiver:
    """Makes batches of parcels, in the training process."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[int, int], torch.Tensor] = {}
        self._busy: dict[int, NDArray[np.uint8]] = {}

    def receive(self, item: Batch | Parcel) -> Batch:
        """Return the batch; its buffer goes back to the loader process when the last tensor on it is gone."""
        if isinstance(item, Batch):
            return item
        if item.buffer is not None and item.busy is not None:
            self._buffers[item.worker, item.slot] = item.buffer
            self._busy[item.worker] = item.busy.numpy()
        num_bytes = item.shape[0] * item.shape[1] * np.dtype(item.dtype).itemsize
        buffer = self._buffers[item.worker, item.slot].numpy()
        array = buffer[:num_bytes].view(item.dtype).reshape(item.shape)
        weakref.finalize(array, _clear, self._busy[item.worker], item.slot).atexit = False
        tensors = {name: torch.from_numpy(item.rest[name]) for name in ("num_samples", "weights")}
        return Batch(waveforms=torch.from_numpy(array), **{**item.rest, **tensors})


def _new_shared(num_bytes: int) -> torch.Tensor:
    return _share(torch.empty(_capacity(num_bytes), dtype=torch.uint8))


def _share(tensor: torch.Tensor) -> torch.Tensor:
    shared: torch.Tensor = tensor.share_memory_()  # type: ignore[no-untyped-call]
    return shared


def _clear(marks: NDArray[np.uint8], slot: int) -> None:
    marks[slot] = 0


def _capacity(num_bytes: int) -> int:
    """Round up to a half power of two, so that batches of like length fit the same buffers."""
    power = 1 << max(num_bytes - 1, 4095).bit_length()
    return power if num_bytes > power // 4 * 3 else power // 4 * 3
