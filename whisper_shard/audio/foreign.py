"""The audio of an utterance in a tar that others wrote: any format that `prepare` reads, and npy arrays."""

import io

from whisper_shard.audio.decoders import DECODERS, decode_recording
from whisper_shard.audio.npy import NpyDecoder
from whisper_shard.audio.recording import Decoder
from whisper_shard.audio.resample import resample
from whisper_shard.errors import AudioError, DatasetError
from whisper_shard.utterance import Waveform

MAX_RECORDING_SECONDS = 86_400.0
"""A member is never longer than this: the highest limit that can be set when an index is made."""


def foreign_decoders(npy_sample_rate: int) -> tuple[Decoder, ...]:
    """Return the decoders of foreign members, in the order in which they are tried.

    Args:
        npy_sample_rate: Hz of npy members.
    """
    return (NpyDecoder(npy_sample_rate), *(make() for make in DECODERS.values()))


def decode_foreign(
    data: bytes | memoryview, *, suffix: str, decoders: tuple[Decoder, ...], start: int, num_samples: int
) -> Waveform:
    """Decode a member, resample it to 16 kHz exactly as when its index was made, and return one utterance of it.

    Args:
        data: Body of the member.
        suffix: Of its name, without dot, lower case.
        decoders: From `foreign_decoders`.
        start: First sample of the utterance, at 16 kHz.
        num_samples: Its length.

    Raises:
        DatasetError: It cannot be decoded, or is too short.
    """
    try:
        file = io.BytesIO(data)
        recording = decode_recording(file, suffix=suffix, decoders=decoders, max_seconds=MAX_RECORDING_SECONDS)
    except AudioError as error:
        raise DatasetError(f"{suffix} member cannot be decoded: {error}") from error
    waveform = resample(recording.waveform, recording.sample_rate)
    if len(waveform) < start + num_samples:
        raise DatasetError(
            f"{suffix} member decodes to {len(waveform)} samples at 16 kHz, the index promises {start + num_samples}; "
            "if the libraries that decode audio have changed, index the tars again"
        )
    return waveform[start : start + num_samples]
