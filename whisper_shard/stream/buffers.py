"""Memory for waveforms that is used again and again, in one process or between two.

Fresh memory costs more than filling it, as the kernel clears each page of it, most of all in shared memory. So a
batch is laid out in a buffer that an earlier batch has left. A buffer is free again when the last tensor on it is
gone, views included: `torch.from_numpy` keeps the array it was given alive, and a finalizer on that array gives the
buffer back. The fewer buffers take turns, the more of them stays in the processor's cache: writing to it is three
times as fast as to memory.

A loader process lays its batches out in memory files, which are mapped by both processes. Such a file is sent to the
training process once; after that a batch is a small `Parcel` that names it.
"""

import mmap
import os
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, fields
from multiprocessing.reduction import DupFd
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from whisper_shard.errors import EnvironmentFault
from whisper_shard.stream.batch import Batch

_SLOTS = 1024  # buffers a loader process can have under way; a prefetch of 2 needs about 4
_SPARE = 8  # free buffers a process keeps
_HEADER_BYTES = 4096  # in front of shared waveforms; the first byte says whether the buffer is in use
_LEAST_SHARED_BYTES = 1 << 28  # of address space: memory is taken up page by page, as it is written


class LocalBuffers:
    """Buffers for batches that stay in this process."""

    def __init__(self) -> None:
        self._free: list[NDArray[np.uint8]] = []

    def take(self, rows: int, samples: int, dtype: str) -> NDArray[Any]:
        """Return an array (rows, samples) with arbitrary contents."""
        num_bytes = rows * samples * np.dtype(dtype).itemsize
        buffer = self._choose(num_bytes)
        array = buffer[:num_bytes].view(dtype).reshape(rows, samples)
        weakref.finalize(array, self._give_back, buffer).atexit = False
        return array

    def send(self, batch: Batch) -> "Batch | Parcel":
        """Return the batch: it goes nowhere."""
        return batch

    def _choose(self, num_bytes: int) -> NDArray[np.uint8]:
        # The one given back last: it is most likely still in the processor's cache.
        fitting = [place for place, buffer in enumerate(self._free) if len(buffer) >= num_bytes]
        if fitting:
            return self._free.pop(fitting[-1])
        if self._free:
            self._free.pop()  # a larger one takes its place, so that there are only as many as are in use at once
        return np.empty(_capacity(num_bytes), np.uint8)

    def _size_of(self, place: int) -> int:
        return len(self._free[place])

    def _give_back(self, buffer: NDArray[np.uint8]) -> None:
        self._free.append(buffer)
        if len(self._free) > _SPARE:
            self._free.pop(min(range(len(self._free)), key=self._size_of))


class Outgoing:
    """A memory file on its way to another process. It is mapped as it is unpickled, while the sender still lives."""

    def __init__(self, descriptor: int) -> None:
        self._file = DupFd(descriptor)

    def __reduce__(self) -> tuple[Any, ...]:
        """Arrive as an array of bytes."""
        return _arrive, (self._file,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parcel:
    """A batch on its way between processes: all but its waveforms, and where those are."""

    worker: int
    """Loader process."""
    slot: int
    """Its buffer."""
    buffer: Outgoing | NDArray[np.uint8] | None
    """The buffer itself, the first time it is used: outgoing, and mapped when it has arrived."""
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
        self._buffers: list[NDArray[np.uint8]] = []
        self._unsent: dict[int, int] = {}  # slot -> descriptor of its memory file
        self._taken: list[int] = []

    def take(self, rows: int, samples: int, dtype: str) -> NDArray[Any]:
        """Return an array (rows, samples) with arbitrary contents, in shared memory."""
        num_bytes = rows * samples * np.dtype(dtype).itemsize
        slot = self._choose(_HEADER_BYTES + num_bytes)
        self._taken.append(slot)
        self._buffers[slot][0] = 1
        return _waveforms(self._buffers[slot], (rows, samples), dtype)

    def send(self, batch: Batch) -> Batch | Parcel:
        """Return the parcel for the batch whose array was taken last."""
        *unused, slot = self._taken
        for other in unused:
            self._buffers[other][0] = 0
        self._taken = []
        buffer = None
        if slot in self._unsent:
            descriptor = self._unsent.pop(slot)
            buffer = Outgoing(descriptor)
            os.close(descriptor)
        rest = {field.name: getattr(batch, field.name) for field in fields(batch) if field.name != "waveforms"}
        tensors = {"num_samples": batch.num_samples.numpy(), "weights": batch.weights.numpy()}
        rows, samples = batch.waveforms.shape
        return Parcel(
            worker=self._worker,
            slot=slot,
            buffer=buffer,
            shape=(rows, samples),
            dtype=str(batch.waveforms.numpy().dtype),
            rest=rest | tensors,
        )

    def _choose(self, num_bytes: int) -> int:
        """Return the first free slot, whose memory is most likely to be in the cache, made large enough."""
        slot = next((slot for slot, buffer in enumerate(self._buffers) if not buffer[0]), len(self._buffers))
        if slot == _SLOTS:
            raise EnvironmentFault(f"{_SLOTS} batches of one loader process are held at once; delete batches after use")
        if slot == len(self._buffers) or len(self._buffers[slot]) < num_bytes:
            if slot in self._unsent:
                os.close(self._unsent.pop(slot))
            self._unsent[slot], buffer = new_shared(max(_capacity(num_bytes), _LEAST_SHARED_BYTES))
            self._buffers[slot : slot + 1] = [buffer]
        return slot


class Receiver:
    """Makes batches of parcels, in the training process."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[int, int], NDArray[np.uint8]] = {}

    def receive(self, item: Batch | Parcel) -> Batch:
        """Return the batch; its buffer goes back to the loader process when the last tensor that uses it is deleted."""
        if isinstance(item, Batch):
            return item
        place = item.worker, item.slot
        if isinstance(item.buffer, np.ndarray):
            self._buffers[place] = item.buffer
        array = _waveforms(self._buffers[place], item.shape, item.dtype)
        weakref.finalize(array, _clear, self._buffers[place]).atexit = False
        tensors = {name: torch.from_numpy(item.rest[name]) for name in ("num_samples", "weights")}
        return Batch(waveforms=torch.from_numpy(array), **{**item.rest, **tensors})


def new_shared(num_bytes: int) -> tuple[int, NDArray[np.uint8]]:
    """Return the descriptor of a new memory file, and its bytes. It has no name, and no limit as /dev/shm has one."""
    descriptor = os.memfd_create("whisper-shard-batch")
    os.ftruncate(descriptor, num_bytes)
    return descriptor, _map(descriptor)


def _arrive(file: Any) -> NDArray[np.uint8]:
    descriptor = file.detach()
    try:
        return _map(descriptor)
    finally:
        os.close(descriptor)


def _map(descriptor: int) -> NDArray[np.uint8]:
    return np.frombuffer(mmap.mmap(descriptor, os.fstat(descriptor).st_size), np.uint8)


def _waveforms(buffer: NDArray[np.uint8], shape: tuple[int, int], dtype: str) -> NDArray[Any]:
    num_bytes = shape[0] * shape[1] * np.dtype(dtype).itemsize
    return buffer[_HEADER_BYTES : _HEADER_BYTES + num_bytes].view(dtype).reshape(shape)


def _clear(buffer: NDArray[np.uint8]) -> None:
    buffer[0] = 0


def _capacity(num_bytes: int) -> int:
    """Round up to a half power of two, so that batches of like length fit the same buffers."""
    power = 1 << max(num_bytes - 1, 4095).bit_length()
    return power if num_bytes > power // 4 * 3 else power // 4 * 3
