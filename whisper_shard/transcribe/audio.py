"""A recording is decoded block by block and becomes its spectrogram; it is never in memory as a whole."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from whisper_shard.audio.decoders import DECODERS, read_blocks
from whisper_shard.audio.recording import mix
from whisper_shard.audio.resample import Resampler
from whisper_shard.audio.speech import SpeechLimits, SpeechSpan, SpeechStream
from whisper_shard.errors import AudioError
from whisper_shard.inference.spectrogram import Spectrogram, SpectrogramBuilder
from whisper_shard.model.log_mel import LogMel
from whisper_shard.storage.object_store import ObjectStore
from whisper_shard.transcribe.sources import Source
from whisper_shard.utterance import HOP_LENGTH, Waveform

SPEECH_LIMITS = SpeechLimits(min_silence_seconds=0.16, pad_seconds=0.4, max_seconds=28.0)
"""What counts as speech. Source: BatchedInferencePipeline of faster-whisper; the length leaves room for the padding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodedRecording:
    """A recording without its waveform."""

    spectrogram: Spectrogram
    """All of it."""
    speech: tuple[SpeechSpan, ...] | None
    """Where there is speech; None: not asked for."""


def read_recording(source: Source, store: ObjectStore, log_mel: LogMel, *, find_speech: bool) -> DecodedRecording:
    """Decode a recording, all channels averaged.

    Args:
        source: The recording.
        store: Access to object storage.
        log_mel: Of the model's number of mel bins.
        find_speech: Whether to find where there is speech, too.

    Raises:
        AudioError: It cannot be decoded to its end, has no samples, or samples that are not finite.
        ConfigError: A package that finds speech is not installed.
        OSError: The machine failed, not the file.
    """
    builder = SpectrogramBuilder(log_mel)
    finder = SpeechStream(SPEECH_LIMITS) if find_speech else None
    speech: list[SpeechSpan] = []
    resampler: Resampler | None = None
    num_samples = 0

    def add(waveform: Waveform) -> None:
        nonlocal num_samples
        if not np.isfinite(waveform @ waveform):
            raise AudioError("holds samples that are not finite numbers, or absurdly large", reason="not_finite")
        num_samples += len(waveform)
        builder.add(waveform)
        if finder is not None:
            speech.extend(finder.add(waveform))

    with source.open(store) as file:
        decoders = [make() for make in DECODERS.values()]
        for block in read_blocks(file, suffix=source.suffix, decoders=decoders):
            if resampler is None:
                resampler = Resampler(block.sample_rate)
            add(resampler.add(mix(block.channels)))
    if resampler is not None:
        add(resampler.finish())
    if num_samples < HOP_LENGTH:
        raise AudioError(f"holds {num_samples} samples at 16 kHz, less than a hundredth of a second")
    if finder is not None:
        speech.extend(finder.finish())
    return DecodedRecording(spectrogram=builder.finish(), speech=None if finder is None else tuple(speech))


def pack_speech(speech: Sequence[SpeechSpan], *, num_frames: int, max_frames: int) -> tuple[tuple[int, int], ...]:
    """Return windows that hold all speech, each from the beginning of a span to the end of the last that still fits.

    Args:
        speech: In order; none longer than ``max_frames``.
        num_frames: Frames of the recording.
        max_frames: Longest window in frames.
    """
    windows: list[tuple[int, int]] = []
    for span in speech:
        start, end = span.start // HOP_LENGTH, min(-(-span.end // HOP_LENGTH), num_frames)
        if windows and end - windows[-1][0] <= max_frames:
            windows[-1] = (windows[-1][0], end)
        elif end > start:
            windows.append((start, min(end, start + max_frames)))
    return tuple(windows)
