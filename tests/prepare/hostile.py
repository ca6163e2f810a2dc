"""Decoders and writers that do what the worst files and the worst luck do. Used by workers, so importable by name."""

import ctypes
import errno
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from whisper_shard.audio.recording import Recording
from whisper_shard.storage.atomic import AtomicWriter

CRASH, HANG, EAT, DIE_ONCE, SLOW, FITFUL = b"CRASH", b"HANG!", b"EAT!!", b"ONCE!", b"SLOW!", b"FITS!"
COUNT = b"COUNT"


class HostileDecoder:
    """Claims files by their first five bytes, and does to the worker what they say."""

    def claims(self, head, _suffix, /):
        return head[:5] in (CRASH, HANG, EAT, DIE_ONCE, SLOW, FITFUL)

    def decode(self, file, *, max_seconds):
        content = file.read()
        if content.startswith(CRASH):
            ctypes.string_at(0)
        elif content.startswith(HANG):
            ctypes.PyDLL(None).sleep(1000)  # PyDLL keeps the interpreter's lock: not even a signal handler would run
        elif content.startswith(EAT):
            eaten = []
            while True:
                eaten.append(np.zeros(50_000_000, np.uint8))  # not touched, so that it takes no time
        elif content.startswith(DIE_ONCE) and not (once := Path(content[5:].decode())).exists():
            once.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        elif content.startswith(FITFUL):
            tries = Path(content[5:].decode())
            with tries.open("a") as log:
                log.write(".")
            if tries.stat().st_size % 2:  # alone, which is always the second time, it behaves
                time.sleep(1000)
        elif content.startswith(SLOW):
            time.sleep(0.3)
        time_axis = np.arange(24_000) / 16_000
        return Recording(waveform=np.sin(2 * np.pi * 200 * time_axis).astype(np.float32), sample_rate=16_000)


class CountingDecoder:
    """Claims files that begin with COUNT, and writes a dot to the file that they name each time one is decoded."""

    def claims(self, head, _suffix, /):
        return head[:5] == COUNT

    def decode(self, file, *, max_seconds):
        with Path(file.read()[5:].decode()).open("a") as log:
            log.write(".")
        return Recording(waveform=np.sin(np.arange(24_000) / 12).astype(np.float32), sample_rate=16_000)


class GreedyFilter:
    """Runs out of memory where no decoder is to blame."""

    def reject(self, utterance):
        raise MemoryError


def step_name(path, step):
    """Return the name of a commit step: ``shard.synced``, ``receipt.renamed``, ``index.written`` ..."""
    if path.suffix == ".tar":
        return f"shard.{step}"
    return f"receipt.{step}" if path.parent.parent.name == "receipts" else f"{path.stem}.{step}"


@dataclass(frozen=True, kw_only=True)
class KillAt(AtomicWriter):
    """Ends the main process, with SIGKILL, after a commit step."""

    step: str
    pid: int

    def after_step(self, path, step):
        if step_name(path, step) == self.step:
            os.kill(self.pid, signal.SIGKILL)
            time.sleep(60)


@dataclass(frozen=True, kw_only=True)
class FailOnce(AtomicWriter):
    """Raises an I/O error after a commit step, as long as a file exists."""

    step: str
    switch: str

    def after_step(self, path, step):
        if step_name(path, step) == self.step and Path(self.switch).exists():
            raise OSError(errno.EIO, "Input/output error")


@dataclass(frozen=True, kw_only=True)
class RecordSteps(AtomicWriter):
    """Appends the name of each commit step to a file."""

    path: str

    def after_step(self, path, step):
        with open(self.path, "a") as file:
            file.write(f"{step_name(path, step)}\n")
