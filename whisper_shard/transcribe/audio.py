"""A recording is decoded block by block and becomes its spectrogram; it is never in memory as a whole."""

from collections.abc import Callable

import numpy as np

from whisper_shard.audio.decoders import DECODERS, read_blocks
from whisper_shard.audio.recording import mix
from whisper_shard.audio.resample import Resampler
from whisper_shard.errors import AudioError
from whisper_shard.inference.spectrogram import Spectrogram, SpectrogramBuilder
from whisper_shard.model.log_mel import LogMel
from whisper_shard.storage.object_store import ObjectStore
from whisper_shard.transcribe.sources import Source
from whisper_shard.utterance import HOP_LENGTH, Waveform


def read_spectrogram(
    source: Source, store: ObjectStore, log_mel: LogMel, hear: Callable[[Waveform], None] | None = None
) -> Spectrogram:
    """Decode a recording, all channels averaged, and return its spectrogram.

    Args:
        source: The recording.
        store: Access to object storage.
        log_mel: Of the model's number of mel bins.
        hear: Also called with each stretch of the waveform at 16 kHz.

    Raises:
        AudioError: It cannot be decoded to its end, has no samples, or samples that are not finite.
        OSError: The machine failed, not the file.
    """
    builder = SpectrogramBuilder(log_mel)
    resampler: Resampler | None = None
    num_samples = 0

    def add(waveform: Waveform) -> None:
        nonlocal num_samples
        if not np.isfinite(waveform @ waveform):
            raise AudioError("holds samples that are not finite numbers, or absurdly large", reason="not_finite")
        num_samples += len(waveform)
        builder.add(waveform)
        if hear is not None:
            hear(waveform)

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
    return builder.finish()
