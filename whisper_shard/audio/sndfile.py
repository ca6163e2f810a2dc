"""libsndfile: most recordings, and the fastest way to read them."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import numpy as np
import soundfile
from numpy.typing import NDArray

from whisper_shard.audio.content import is_only_for_ffmpeg, skip_id3
from whisper_shard.audio.flac import ends_with_last_frame, read_stream_info
from whisper_shard.audio.recording import (
    AudioBlock,
    ChannelComparison,
    Recording,
    UnknownFormatError,
    check_container,
    check_rate,
    cut_off,
    mix,
    one_line,
    too_long,
)
from whisper_shard.audio.samples import to_float32
from whisper_shard.errors import AudioError
from whisper_shard.utterance import Waveform

LIBSNDFILE_VERSION: str = soundfile.__libsndfile_version__
_BLOCK_VALUES = 1 << 20
_CUT_OFF = re.compile(r"^\s*(?:data|SSND|Data Size)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE)
_UNKNOWN_BYTES = 0x7FFF_F000  # this and more is what writers leave that could not go back to fill in the length
_UNKNOWN_FRAMES = 1 << 62
_SLACK_BYTES = 64  # some writers count the header itself
_UNREAD_MP3_BYTES = 1 << 11  # the last frame and a short tag
_MIN_FRAME_SHARE = 0.98
_WITHOUT_REMARK = ("MP3", "FLAC", "OGG")  # libsndfile's log says nothing on the length of these
_SEEKS_EXACTLY = ("WAV", "WAVEX", "AIFF", "AU", "CAF", "W64", "RF64", "FLAC")
_WITH_CONTAINER = ("OGG", "W64", "RF64", "CAF")  # libsndfile does not say when one of these is cut off


class SoundfileDecoder:
    """libsndfile: wav, flac, mp3, ogg, opus, aiff, au, caf, w64, rf64 ..."""

    def claims(self, head: bytes, _suffix: str, /) -> bool:
        """Claim all but the containers that only FFmpeg knows."""
        return not is_only_for_ffmpeg(head)

    def decode(self, file: BinaryIO, *, max_seconds: float) -> Recording:
        """Decode with libsndfile; float32 whatever the file stores."""
        with _opened(file) as sound:
            rate = check_rate(sound.samplerate)
            limit = int(max_seconds * rate)
            if limit < sound.frames < _UNKNOWN_FRAMES:
                raise too_long(sound.frames / rate, max_seconds)
            channels = ChannelComparison()
            waveform = _read(sound, limit, max_seconds, channels)
            _check_end(sound, len(waveform), file)
        return Recording(waveform=waveform, sample_rate=rate, channel_correlation=channels.correlation())

    def read_blocks(self, file: BinaryIO, *, start_seconds: float) -> Iterator[AudioBlock]:
        """Yield blocks; formats without compression between samples, and flac, are entered at ``start_seconds``."""
        with _opened(file) as sound:
            rate = check_rate(sound.samplerate)
            position = int(start_seconds * rate) if sound.format in _SEEKS_EXACTLY and sound.seekable() else 0
            position = sound.seek(position) if 0 < position < sound.frames else 0
            while len(block := _read_values(sound, max(_BLOCK_VALUES // sound.channels, 1), always_2d=True)):
                yield AudioBlock(channels=block.T, sample_rate=rate, position=position)
                position += len(block)
            _check_end(sound, position, file)


@contextmanager
def _opened(file: BinaryIO) -> Iterator[soundfile.SoundFile]:
    # A descriptor lets libsndfile read by itself; 8 % faster on mp3 than calling back into Python.
    source = file.fileno() if isinstance(file, io.FileIO) else file
    try:
        with _open(source) as sound:
            yield sound
    except soundfile.SoundFileError as error:
        raise AudioError(f"damaged or cut off ({one_line(error)})") from error


def _open(source: int | BinaryIO) -> soundfile.SoundFile:
    try:
        return soundfile.SoundFile(source, closefd=False)
    except soundfile.LibsndfileError as error:
        # What libsndfile says of an mp3 file without two frames is that the file does not exist.
        words = "Format not recognised" if "does not exist" in str(error) else one_line(error)
        kind = UnknownFormatError if "not recognised" in words else AudioError
        raise kind(words) from error


def _read(sound: soundfile.SoundFile, limit: int, max_seconds: float, channels: ChannelComparison) -> Waveform:
    if sound.channels == 1 and sound.frames <= limit:
        return _read_values(sound)
    # Block by block, so that 24 channels do not need 24 times the memory.
    blocks, num_samples = [], 0
    while len(block := _read_values(sound, max(_BLOCK_VALUES // sound.channels, 1), always_2d=True)):
        channels.add(block.T)
        blocks.append(mix(block.T))
        num_samples += len(block)
        if num_samples > limit:
            raise too_long(num_samples / sound.samplerate, max_seconds)
    return blocks[0] if len(blocks) == 1 else np.concatenate([np.zeros(0, np.float32), *blocks])


def _read_values(sound: soundfile.SoundFile, num_frames: int = -1, *, always_2d: bool = False) -> NDArray[np.float32]:
    """Read frames as float32, shape (frames,) or (frames, channels)."""
    if sound.subtype == "PCM_16" and sound.format != "FLAC":
        # libsndfile converts one sample after the other; one multiplication of all gives the same values sooner. Not so
        # for flac, whose decoder has each block at hand anyway.
        return to_float32(sound.read(num_frames, dtype="int16", always_2d=always_2d))
    values: NDArray[np.float32] = sound.read(num_frames, dtype="float32", always_2d=always_2d)
    return values


def _check_end(sound: soundfile.SoundFile, num_frames: int, file: BinaryIO) -> None:
    """Compare what was read with what the header promises, since libsndfile is content with less."""
    container = sound.format
    if container not in _WITHOUT_REMARK and (found := _CUT_OFF.search(sound.extra_info)):
        promised, present = int(found[1]), int(found[2])
        if present + _SLACK_BYTES < promised < _UNKNOWN_BYTES:
            raise cut_off(f"{promised} bytes", present)
    if container == "MP3":
        _check_end_of_mp3(sound, num_frames, file)
        return
    if container in _WITH_CONTAINER:
        check_container(file)
    share = 1.0 if container == "FLAC" else _MIN_FRAME_SHARE
    if num_frames < share * sound.frames < _UNKNOWN_FRAMES:
        raise cut_off(f"{sound.frames} samples", num_frames)
    if container == "FLAC" and (info := read_stream_info(file)) and not ends_with_last_frame(file, info):
        raise AudioError(f"damaged: its header counts {num_frames} samples, but its last frame has others")


def _check_end_of_mp3(sound: soundfile.SoundFile, num_frames: int, file: BinaryIO) -> None:
    """Check an mp3 by its count of frames; where it has none, by how far it was read.

    Without a count libsndfile estimates the length, and reads no further; it also ends where mono becomes stereo.
    """
    position, num_bytes = file.tell(), file.seek(0, 2)
    if _counts_frames(file):
        if num_frames < _MIN_FRAME_SHARE * sound.frames:
            raise cut_off(f"{sound.frames} samples", num_frames)
    elif position + _UNREAD_MP3_BYTES < num_bytes:
        raise AudioError(f"decoding ends at byte {position} of {num_bytes}")


def _counts_frames(file: BinaryIO) -> bool:
    """Return whether an mp3 file begins with a Xing or LAME header."""
    file.seek(skip_id3(file))
    frame = file.read(_BLOCK_VALUES >> 10)
    return b"Xing" in frame or b"Info" in frame
