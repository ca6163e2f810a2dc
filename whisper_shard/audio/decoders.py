"""The bytes of a recording become a waveform.

Recordings are recognized by their content first; the suffix only breaks ties. libsndfile reads wav, flac, mp3, ogg,
opus, aiff, caf and more; FFmpeg (PyAV) reads what libsndfile does not know: m4a, aac, webm, mp4, wma, amr. Decoding
works on an open file: a real one is read by the decoder itself, without a detour through Python.

To add a decoder, write a class with `claims` and `decode` (see `Decoder`) and name it in DECODERS, or name it in a TOML
file, ``[[prepare.decoders]] kind = "package.module:Class"``; those are tried first.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import BinaryIO, TypeVar

from whisper_shard.audio.content import HEAD_BYTES
from whisper_shard.audio.ffmpeg import AvDecoder
from whisper_shard.audio.recording import (
    AudioBlock,
    BlockDecoder,
    Decoder,
    MakeDecoder,
    Recording,
    UnknownFormatError,
)
from whisper_shard.audio.sndfile import SoundfileDecoder
from whisper_shard.errors import AudioError

_READ_BYTES = 1 << 20
_ANY_SECONDS = 86_400.0  # a decoder of the user's own that knows no blocks decodes a whole day, but no more
Decoded = TypeVar("Decoded")

DECODERS: Mapping[str, MakeDecoder] = {"soundfile": SoundfileDecoder, "av": AvDecoder}
"""In the order in which they are tried."""


def decode_recording(file: BinaryIO, *, suffix: str, decoders: Sequence[Decoder], max_seconds: float) -> Recording:
    """Decode an open file with the first decoder that claims it and can open it.

    Args:
        file: Open for reading, seekable, at its beginning.
        suffix: Of the file's name, without dot, lower case.
        decoders: In the order in which they are tried.
        max_seconds: Longer recordings are rejected, if possible before they are decoded.

    Raises:
        AudioError: No decoder can read it (the words of the first that knows its format), it is cut off or too long, or
            it has no sample.
        OSError: The disk cannot give its bytes.
    """
    recording = _try_decoders(file, suffix, decoders, lambda decoder: decoder.decode(file, max_seconds=max_seconds))
    if not len(recording.waveform):
        raise AudioError("decodes to 0 samples", reason="empty_audio")
    return recording


def read_blocks(
    file: BinaryIO, *, suffix: str, decoders: Sequence[Decoder], start_seconds: float = 0.0
) -> Iterator[AudioBlock]:
    """Decode an open file block by block, with the first decoder that claims it and can decode the first block.

    Args:
        file: Open for reading, seekable, at its beginning; it must stay open.
        suffix: Of the file's name, without dot, lower case.
        decoders: In the order in which they are tried; one without ``read_blocks`` decodes everything to one block.
        start_seconds: Audio before this may be left out.

    Raises:
        AudioError: No decoder can read it, or it has no sample; while iterating: it is damaged from here on.
        OSError: The disk cannot give its bytes.
    """

    def begin(decoder: Decoder) -> Iterator[AudioBlock]:
        if not isinstance(decoder, BlockDecoder):
            recording = decoder.decode(file, max_seconds=_ANY_SECONDS)
            block = AudioBlock(channels=recording.waveform[None], sample_rate=recording.sample_rate, position=0)
            return iter([block] if len(recording.waveform) else [])
        blocks = decoder.read_blocks(file, start_seconds=start_seconds)
        first = next(blocks, None)
        return iter([]) if first is None else chain([first], blocks)

    blocks = _try_decoders(file, suffix, decoders, begin)
    first = next(blocks, None)
    if first is None:
        raise AudioError("decodes to 0 samples", reason="empty_audio")
    return chain([first], blocks)


def _try_decoders(
    file: BinaryIO, suffix: str, decoders: Sequence[Decoder], decode: Callable[[Decoder], Decoded]
) -> Decoded:
    head = file.read(HEAD_BYTES)
    errors: list[AudioError] = []
    for decoder in decoders:
        if not decoder.claims(head, suffix):
            continue
        file.seek(0)
        try:
            return decode(decoder)
        except AudioError as error:
            if error.reason == "truncated":
                _read_through(file)  # a failing disk looks the same to libsndfile
            if error.reason != "decode_failed":
                raise
            errors.append(error)
    _read_through(file)
    raise _first_known(errors) or AudioError("no decoder for this kind of file")


def _first_known(errors: list[AudioError]) -> AudioError | None:
    """Return the first error of a decoder that knows the format, else the first."""
    return next((error for error in errors if not isinstance(error, UnknownFormatError)), errors[0] if errors else None)


def _read_through(file: BinaryIO) -> None:
    """Read a file that no decoder could: where the disk is at fault, this raises its OSError."""
    file.seek(0)
    while file.read(_READ_BYTES):
        pass
