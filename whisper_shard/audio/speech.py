"""Where there is speech in a waveform, found offline by Silero's voice activity detector, without torch.

The package silero-vad ships the model as ONNX; onnxruntime runs it on one thread.
Importing the package would load torch, so only its file is used.

Source: https://github.com/snakers4/silero-vad, version 6 (the model, and the rules of `get_speech_timestamps`)
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from whisper_shard.errors import AudioError, ConfigError
from whisper_shard.utterance import SAMPLE_RATE, Waveform

FRAME_SAMPLES = 512
"""Samples at 16 kHz that have one probability of speech: 32 ms. Source: Silero VAD, as CONTEXT_SAMPLES."""
CONTEXT_SAMPLES = 64
"""Samples before a frame that the model sees too."""
BLOCK_FRAMES = 128
"""Frames of one call of the model: longer blocks leave the processor's cache."""
MODEL_FILE = "data/silero_vad_16k_sequence.onnx"
"""The model in the package silero-vad: many frames a call, with the state of its LSTM as input and output."""
_STATE_SHAPE = (1, 1, 128)
_BLOCK_SAMPLES = BLOCK_FRAMES * FRAME_SAMPLES


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechLimits:
    """What counts as speech; the defaults are those of Silero's ``get_speech_timestamps``."""

    threshold: float = 0.5
    """Probability from which on a frame is speech, 0 to 1; speech ends at 0.15 less."""
    min_speech_seconds: float = 0.25
    """Speech that is not longer is left out."""
    min_silence_seconds: float = 0.1
    """Shorter silence belongs to the speech around it."""
    pad_seconds: float = 0.03
    """Audio kept before and after speech; a pause shorter than two of these is shared."""
    max_seconds: float = math.inf
    """Longer speech is divided where its second half is least like speech."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechSpan:
    """A stretch of speech in a waveform."""

    start: int
    """Its first sample, at 16 kHz."""
    end: int
    """The sample behind its last."""

    @property
    def start_seconds(self) -> float:
        """Where it begins."""
        return self.start / SAMPLE_RATE

    @property
    def end_seconds(self) -> float:
        """Where it ends."""
        return self.end / SAMPLE_RATE


def find_speech_model() -> Path:
    """Return the file of the model.

    Raises:
        ConfigError: A package is not installed.
    """
    for name in ("silero_vad", "onnxruntime"):
        found = find_spec(name)  # of a package that is not within another one, this imports nothing
        if found is None or not found.submodule_search_locations:
            raise ConfigError(f"finding speech needs {name}: pip install 'whisper-shard[vad]'")
        if name == "silero_vad":
            path = Path(next(iter(found.submodule_search_locations))) / MODEL_FILE
    if not path.is_file():
        raise ConfigError(
            f"finding speech needs silero-vad 6.2.2 or newer ({path} is missing): pip install -U silero-vad"
        )
    return path


def find_speech(waveform: Waveform, limits: SpeechLimits | None = None) -> list[SpeechSpan]:
    """Return where there is speech in a waveform, in order.

    Args:
        waveform: Mono, at 16 kHz, in [-1, 1], of any length.
        limits: What counts as speech; None: the defaults.

    Raises:
        ConfigError: A package is not installed.
        AudioError: A sample is not a finite number (``not_finite``).
    """
    stream = SpeechStream(limits or SpeechLimits())
    return [*stream.add(waveform), *stream.finish()]


class SpeechStream:
    """Finds speech in audio that comes in pieces; however it is divided, the spans are the same.

    A span is told as soon as it is known where it ends, but for the last BLOCK_FRAMES, which wait for more audio.
    """

    def __init__(self, limits: SpeechLimits) -> None:
        """Load the model.

        Raises:
            ConfigError: A package is not installed.
        """
        self._session = _load_session()
        self._hidden, self._cell = np.zeros(_STATE_SHAPE, np.float32), np.zeros(_STATE_SHAPE, np.float32)
        self._pieces, self._num_waiting = [np.zeros(CONTEXT_SAMPLES, np.float32)], 0
        self._num_samples = 0
        self._spans = _SpanFinder(limits=limits)

    def add(self, waveform: Waveform) -> Iterator[SpeechSpan]:
        """Take the next samples, and yield the spans that are over.

        Raises:
            AudioError: A sample is not a finite number (``not_finite``).
        """
        if not np.isfinite(np.vdot(waveform, waveform)):  # the model would answer as if nothing were wrong
            raise AudioError("holds samples that are not finite numbers, or absurdly large", reason="not_finite")
        self._pieces.append(waveform.astype(np.float32))
        self._num_waiting += len(waveform)
        self._num_samples += len(waveform)
        if self._num_waiting >= _BLOCK_SAMPLES:
            yield from self._run(self._num_waiting // _BLOCK_SAMPLES * BLOCK_FRAMES)

    def finish(self) -> Iterator[SpeechSpan]:
        """Yield the spans that are left, once the audio is over."""
        if self._num_waiting:
            missing = -self._num_waiting % FRAME_SAMPLES
            self._pieces.append(np.zeros(missing, np.float32))
            yield from self._run((self._num_waiting + missing) // FRAME_SAMPLES)
        yield from self._spans.finish(self._num_samples)

    @property
    def settled(self) -> int:
        """The sample before which no further span will begin."""
        return self._spans.settled

    def _run(self, num_frames: int) -> Iterator[SpeechSpan]:
        """Take so many frames from what waits; each begins with the end of the one before it."""
        samples = np.concatenate(self._pieces)
        self._pieces = [samples[num_frames * FRAME_SAMPLES :]]
        self._num_waiting = max(0, self._num_waiting - num_frames * FRAME_SAMPLES)
        frames = np.lib.stride_tricks.sliding_window_view(samples, CONTEXT_SAMPLES + FRAME_SAMPLES)[::FRAME_SAMPLES]
        for begin in range(0, num_frames, BLOCK_FRAMES):
            block = np.ascontiguousarray(frames[begin : min(begin + BLOCK_FRAMES, num_frames)])
            found, self._hidden, self._cell = self._session.run(
                ["speech_probs", "hn", "cn"], {"input": block, "h": self._hidden, "c": self._cell}
            )
            for probability in found.ravel().tolist():
                yield from self._spans.add(probability)


@cache
def _load_session() -> Any:
    path = find_speech_model()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.inter_op_num_threads = options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), sess_options=options, providers=["CPUExecutionProvider"])


@dataclass(slots=True, kw_only=True)
class _SpanFinder:
    """Turns probabilities of frames into spans, by the rules of Silero's ``get_speech_timestamps``."""

    limits: SpeechLimits
    position: int = 0
    """First sample of the next frame."""
    start: int | None = None
    """Where the speech that goes on has begun."""
    silence: int | None = None
    """Where it may have ended."""
    recent: list[float] = field(default_factory=list)
    """Probabilities of its frames, where a longest length is given."""
    last: SpeechSpan | None = None
    """The span before, without audio kept behind it: how much that is depends on the next one."""

    @property
    def settled(self) -> int:
        """The sample before which no further span will begin."""
        begin = self.position if self.start is None else self.start
        return max(0, begin - self._pad if self.last is None else min(self.last.start, begin - self._pad))

    @property
    def _pad(self) -> int:
        return int(self.limits.pad_seconds * SAMPLE_RATE)

    def add(self, probability: float) -> Iterator[SpeechSpan]:
        """Take the probability of the next frame."""
        frame, self.position = self.position, self.position + FRAME_SAMPLES
        if probability >= self.limits.threshold:
            self.silence = None
            if self.start is None:
                self.start, self.recent = frame, []
        if self.start is not None:
            yield from self._go_on(self.start, frame, probability)
        if self.last is not None and self.start is None and frame - self.last.end >= 2 * self._pad:
            yield self._pad_end(self.last, self.last.end + self._pad)
            self.last = None

    def _go_on(self, start: int, frame: int, probability: float) -> Iterator[SpeechSpan]:
        limits = self.limits
        if probability < max(limits.threshold - 0.15, 0.01):
            self.silence = frame if self.silence is None else self.silence
            if frame - self.silence >= limits.min_silence_seconds * SAMPLE_RATE:
                yield from self._close(start, self.silence)
                self.start = self.silence = None
                return
        if limits.max_seconds < math.inf:
            self.recent.append(probability)
            if frame + FRAME_SAMPLES - start + 2 * self._pad > limits.max_seconds * SAMPLE_RATE:
                yield from self._divide(start)

    def _divide(self, start: int) -> Iterator[SpeechSpan]:
        """End the speech that goes on where its second half is least like speech, on average of three frames."""
        half = len(self.recent) // 2
        smooth = np.convolve(self.recent, np.ones(3), "same")[half:-1]
        cut = half + int(smooth.argmin()) if len(smooth) else len(self.recent) - 1
        place = start + cut * FRAME_SAMPLES
        yield from self._close(start, place)
        self.start, self.recent = place, self.recent[cut:]

    def _close(self, start: int, end: int) -> Iterator[SpeechSpan]:
        """Keep a span until it is known what follows, and yield the one before it."""
        if end - start <= self.limits.min_speech_seconds * SAMPLE_RATE:
            return
        if self.last is None:
            self.last = SpeechSpan(start=max(0, start - self._pad), end=end)
            return
        pause = start - self.last.end
        kept = pause // 2 if pause < 2 * self._pad else self._pad
        yield self._pad_end(self.last, self.last.end + kept)
        self.last = SpeechSpan(start=start - kept, end=end)

    def finish(self, num_samples: int) -> Iterator[SpeechSpan]:
        """Take the end of the audio."""
        if self.start is not None:
            yield from self._close(self.start, num_samples)
        if self.last is not None:
            yield self._pad_end(self.last, min(num_samples, self.last.end + self._pad))
        self.start = self.last = None

    @staticmethod
    def _pad_end(span: SpeechSpan, end: int) -> SpeechSpan:
        return SpeechSpan(start=span.start, end=end)
