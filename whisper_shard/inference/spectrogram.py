"""The log-mel spectrogram of a recording of any length, made while the recording is decoded.

Whisper compares every value with the loudest of the whole recording, so no window is final before the recording ends.
What is kept until then is the logarithm of mel power, half the size of the waveform.

Edges are those of transformers: a recording of 30 s or more is reflected at its end, zeros follow a shorter one.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from whisper_shard.model.log_mel import FLOOR_POWER, LogMel, compress_range
from whisper_shard.utterance import FRAMES_PER_SECOND, HOP_LENGTH, MAX_SAMPLES, N_FFT, Waveform

_HALF = N_FFT // 2
_CHUNK_FRAMES = 3000


@dataclass(frozen=True, slots=True, kw_only=True)
class Spectrogram:
    """Mel power of a whole recording."""

    log_power: Tensor
    """(n_mels, frames) float32, decimal logarithm; of a recording below 30 s, with the zeros after it."""
    num_frames: int
    """Frames of the recording itself, 100 a second."""

    @property
    def seconds(self) -> float:
        """Length of the recording."""
        return self.num_frames / FRAMES_PER_SECOND

    def window(
        self, start: int, end: int, *, num_frames: int, loudest: Tensor | None = None, then_silence: bool = False
    ) -> Tensor:
        """Return the encoder's input for frames ``start`` to ``end``, (n_mels, num_frames).

        What lies after the end is 0, as in Whisper's own long-form transcription; only a recording shorter than the
        window is followed by the spectrogram of silence, as in training.

        Args:
            start: First frame.
            end: Frame behind the last.
            num_frames: Of the model's window.
            loudest: Maximum of the logarithm over the recording; None: computed.
            then_silence: What lies after the end is silence, as in training.
        """
        if start == 0 and end == self.num_frames < num_frames:
            end = num_frames
        part = self.log_power[:, start:end]
        if then_silence:
            part = functional.pad(part, (0, num_frames - part.shape[1]), value=math.log10(FLOOR_POWER))
        values = compress_range(part, self.log_power.amax() if loudest is None else loudest)
        return functional.pad(values, (0, num_frames - values.shape[1]))


class SpectrogramBuilder:
    """Makes the spectrogram of a recording that arrives in blocks.

    Args:
        log_mel: Of the model's number of mel bins, on the device that computes.
    """

    def __init__(self, log_mel: LogMel) -> None:
        self._log_mel = log_mel
        self._samples: list[Waveform] = []
        self._num_waiting = 0
        self._num_samples = 0
        self._parts: list[Tensor] = []
        self._is_begun = False

    def add(self, waveform: Waveform) -> None:
        """Take in the next samples, at 16 kHz."""
        self._samples.append(waveform)
        self._num_waiting += len(waveform)
        self._num_samples += len(waveform)
        if self._num_waiting > 2 * _CHUNK_FRAMES * HOP_LENGTH:
            self._compute(self._join())

    def finish(self) -> Spectrogram:
        """Return the spectrogram of all samples."""
        waiting = self._join()
        if self._num_samples >= MAX_SAMPLES:
            waiting = np.pad(waiting, (0, _HALF), mode="reflect")
        else:
            waiting = np.pad(waiting, (0, MAX_SAMPLES - self._num_samples + _HALF))
        self._compute(waiting, is_last=True)
        log_power = torch.cat(self._parts, dim=1) if len(self._parts) > 1 else self._parts[0]
        num_frames = self._num_samples // HOP_LENGTH
        return Spectrogram(log_power=log_power[:, : max(num_frames, MAX_SAMPLES // HOP_LENGTH)], num_frames=num_frames)

    def _join(self) -> Waveform:
        """Return the samples that wait, the first of the recording with their reflection before them."""
        waiting = np.concatenate([np.zeros(0, np.float32), *self._samples])
        if not self._is_begun:
            self._is_begun = True
            short = max(0, _HALF + 1 - len(waiting))
            waiting = np.pad(np.pad(waiting, (0, short)), (_HALF, 0), mode="reflect")
            waiting = waiting[: len(waiting) - short]
        return waiting

    def _compute(self, padded: Waveform, *, is_last: bool = False) -> None:
        """Compute the frames of samples in pieces, and keep the samples of those that are not whole yet."""
        window = self._log_mel.window
        total = (len(padded) - N_FFT) // HOP_LENGTH + 1
        for start in range(0, total, _CHUNK_FRAMES):
            count = min(_CHUNK_FRAMES, total - start)
            if count < _CHUNK_FRAMES and not is_last:
                total = start
                break
            piece = padded[start * HOP_LENGTH : (start + count - 1) * HOP_LENGTH + N_FFT]
            samples = torch.from_numpy(np.ascontiguousarray(piece, np.float32)).to(window.device)
            self._parts.append(self._log_mel.log_power(samples[None])[0].cpu())
        rest = padded[total * HOP_LENGTH :]
        self._samples, self._num_waiting = [rest], len(rest)
