"""The bytes of a recording become a waveform, and samples become the audio member of a shard.

Recordings are recognized by their content first; the suffix only breaks ties. libsndfile reads wav, flac, mp3, ogg,
opus, aiff, caf and more; FFmpeg (PyAV) reads what libsndfile does not know: m4a, aac, webm, mp4, wma, amr. Decoding
works on an open file: a real one is read by the decoder itself, without a detour through Python.

To add a decoder, write a class with `claims` and `decode` and name it in DECODERS, or name it in a TOML file:
``[[prepare.decoders]] kind = "package.module:Class"``; those are asked first. To add a storage codec, name it in
ENCODERS.
"""

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Protocol

import numpy as np
import soundfile
from numpy.typing import NDArray

from whisper_shard.audio.samples import to_float32
from whisper_shard.audio.truncation import find_cut
from whisper_shard.errors import AudioError
from whisper_shard.utterance import SAMPLE_RATE, Waveform

HEAD_BYTES = 64
"""Bytes at the beginning of a file that decoders get to see before they claim it."""
SAMPLE_RATES = (1_000, 768_000)
"""Lowest and highest sampling rate, in Hz, that is believed."""
LIBSNDFILE_VERSION: str = soundfile.__libsndfile_version__
_BLOCK_VALUES = 1 << 20
_CUT_OFF = re.compile(r"^\s*(?:data|SSND|Data Size)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE)
_UNKNOWN_BYTES = 0x7FFF_F000  # this and more is what writers leave that could not go back to fill in the length
_SLACK_BYTES = 64  # some writers count the header itself
_MIN_FRAME_SHARE = 0.98
_WITHOUT_REMARK = ("MP3", "FLAC", "OGG")  # libsndfile's log has nothing on the length of these
_WITH_CONTAINER = ("OGG", "W64", "RF64", "CAF")  # libsndfile does not say when one of these is cut off


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """What one audio file holds."""

    waveform: Waveform
    """All channels averaged, at the file's own rate; usually in [-1, 1]."""
    sample_rate: int
    """Of the waveform, in Hz."""


class Decoder(Protocol):
    """One way to turn a file into a waveform."""

    def claims(self, head: bytes, suffix: str, /) -> bool:
        """Tell whether this decoder should try a file that begins with ``head`` and is named ``*.suffix``."""
        ...

    def decode(self, file: BinaryIO, *, max_seconds: float) -> Recording:
        """Decode an open file.

        Raises:
            AudioError: It is damaged, cut off, or longer than ``max_seconds``. Only the reason ``decode_failed`` lets
                the next decoder try.
        """
        ...


class SoundfileDecoder:
    """libsndfile: wav, flac, mp3, ogg, opus, aiff, au, caf, w64, rf64 ..."""

    def claims(self, head: bytes, _suffix: str, /) -> bool:
        """Claim all but the containers that only FFmpeg knows."""
        return not _is_ffmpeg_container(head)

    def decode(self, file: BinaryIO, *, max_seconds: float) -> Recording:
        """Decode with libsndfile; float32 whatever the file stores."""
        try:
            # A descriptor lets libsndfile read by itself; 8 % faster on mp3 than calling back into Python.
            source = file.fileno() if isinstance(file, io.FileIO) else file
            with soundfile.SoundFile(source, closefd=False) as sound:
                rate = _check_rate(sound.samplerate)
                limit = int(max_seconds * rate)
                if sound.frames > limit and sound.frames < 2**62:
                    raise _too_long(sound.frames / rate, max_seconds)
                if sound.channels == 1 and sound.frames <= limit:
                    waveform = _read_values(sound)
                else:
                    waveform = _read_mixed(sound, limit, max_seconds)
                _check_whole(sound, len(waveform), file)
                return Recording(waveform=waveform, sample_rate=rate)
        except soundfile.SoundFileError as error:
            raise AudioError(_one_line(error)) from error


class AvDecoder:
    """FFmpeg through PyAV: the first audio stream of anything it can open."""

    def claims(self, _head: bytes, _suffix: str, /) -> bool:
        """Claim everything: it is the last in the list."""
        return True

    def decode(self, file: BinaryIO, *, max_seconds: float) -> Recording:
        """Decode with FFmpeg to planar float32, then average the channels."""
        import av  # 20 MB and 0.2 s that most corpora do not need

        _check_container(file)
        file.seek(0)
        try:
            with av.open(file, mode="r", metadata_errors="ignore") as container:
                if not container.streams.audio:
                    raise AudioError("holds no audio stream")
                return _decode_av(av, container, max_seconds)
        except (av.FFmpegError, ValueError, OverflowError) as error:
            raise AudioError(_one_line(error)) from error


DECODERS: dict[str, Callable[[], Decoder]] = {"soundfile": SoundfileDecoder, "av": AvDecoder}
"""In the order in which they are asked."""


def load_decoders() -> None:
    """Import what a decoder would otherwise import when it is first needed."""
    import av  # noqa: F401


def decode_recording(file: BinaryIO, *, suffix: str, decoders: Sequence[Decoder], max_seconds: float) -> Recording:
    """Decode an open file with the first decoder that claims it and can open it.

    Args:
        file: Open for reading, seekable, at its beginning.
        suffix: Of the file's name, without dot, lower case.
        decoders: In the order in which they are asked.
        max_seconds: Longer recordings are refused, if possible before they are decoded.

    Raises:
        AudioError: No decoder can read it (the first one's words), it is cut off or too long, or it has no sample.
        OSError: The disk cannot give its bytes.
    """
    head = file.read(HEAD_BYTES)
    first_error: AudioError | None = None
    for decoder in decoders:
        if not decoder.claims(head, suffix):
            continue
        file.seek(0)
        try:
            recording = decoder.decode(file, max_seconds=max_seconds)
        except AudioError as error:
            if error.reason == "truncated":
                _read_through(file)  # a failing disk looks the same to libsndfile
            if error.reason != "decode_failed":
                raise
            first_error = first_error or error
            continue
        if not len(recording.waveform):
            raise AudioError("decodes to 0 samples", reason="empty_audio")
        return recording
    _read_through(file)
    raise first_error or AudioError("no decoder for this kind of file")


def _read_values(sound: soundfile.SoundFile, num_frames: int = -1, *, always_2d: bool = False) -> NDArray[np.float32]:
    """Read frames as float32, shape (frames,) or (frames, channels)."""
    if sound.subtype == "PCM_16" and sound.format != "FLAC":
        # libsndfile converts one sample after the other; one multiplication of all gives the same values sooner. Not so
        # for flac, whose decoder has each block at hand anyway.
        return to_float32(sound.read(num_frames, dtype="int16", always_2d=always_2d))
    values: NDArray[np.float32] = sound.read(num_frames, dtype="float32", always_2d=always_2d)
    return values


def _read_mixed(sound: soundfile.SoundFile, limit: int, max_seconds: float) -> Waveform:
    """Average the channels block by block, so that 24 channels do not need 24 times the memory."""
    blocks, num_samples = [], 0
    while len(block := _read_values(sound, max(_BLOCK_VALUES // sound.channels, 1), always_2d=True)):
        blocks.append(_mix(block.T))
        num_samples += len(block)
        if num_samples > limit:
            raise _too_long(num_samples / sound.samplerate, max_seconds)
    return blocks[0] if len(blocks) == 1 else np.concatenate([np.zeros(0, np.float32), *blocks])


def _check_whole(sound: soundfile.SoundFile, num_frames: int, file: BinaryIO) -> None:
    """Compare what was read with what the header promises, since libsndfile is content with less."""
    container = sound.format
    if container not in _WITHOUT_REMARK and (found := _CUT_OFF.search(sound.extra_info)):
        promised, present = int(found[1]), int(found[2])
        if present + _SLACK_BYTES < promised < _UNKNOWN_BYTES:
            raise AudioError(f"cut off: the header promises {promised} bytes, {present} are there", reason="truncated")
    if container in _WITH_CONTAINER:
        _check_container(file)
    if num_frames < _MIN_FRAME_SHARE * sound.frames < 2**62 and (container != "MP3" or _counts_frames(file)):
        raise AudioError(
            f"cut off: the header promises {sound.frames} samples, {num_frames} are there", reason="truncated"
        )


def _check_container(file: BinaryIO) -> None:
    if cut := find_cut(file):
        raise AudioError(cut, reason="truncated")


def _counts_frames(file: BinaryIO) -> bool:
    """Tell whether an mp3 file begins with a Xing or LAME header; without, its length is only a guess."""
    file.seek(0)
    head = file.read(10)
    if head[:3] == b"ID3" and len(head) == 10:
        file.seek(10 + sum(byte << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True)))
    else:
        file.seek(0)
    frame = file.read(_BLOCK_VALUES >> 10)
    return b"Xing" in frame or b"Info" in frame


def _decode_av(av, container, max_seconds: float) -> Recording:  # type: ignore[no-untyped-def]
    blocks: list[Waveform] = []
    rate = num_samples = 0
    resampler = av.AudioResampler(format="fltp")
    for frame in container.decode(audio=0):
        rate = rate or _check_rate(frame.sample_rate)
        if frame.sample_rate != rate:
            raise AudioError(f"changes its sampling rate from {rate} to {frame.sample_rate} Hz")
        for planar in resampler.resample(frame):
            blocks.append(_mix(planar.to_ndarray()))
            num_samples += len(blocks[-1])
        if num_samples > max_seconds * rate:
            raise _too_long(num_samples / rate, max_seconds)
    return Recording(waveform=np.concatenate([np.zeros(0, np.float32), *blocks]), sample_rate=rate or SAMPLE_RATE)


def _mix(channels: NDArray[np.float32]) -> Waveform:
    """Average (channels, samples) to (samples,); two channels by one addition, much faster than a mean."""
    if len(channels) == 2:
        mixed: Waveform = (channels[0] + channels[1]) * np.float32(0.5)
    else:
        mixed = channels.mean(axis=0, dtype=np.float32)
    return mixed


def _read_through(file: BinaryIO) -> None:
    """Read a file that no decoder could: where the disk is at fault, this raises its OSError."""
    file.seek(0)
    while file.read(_BLOCK_VALUES):
        pass


def _is_ffmpeg_container(head: bytes) -> bool:
    is_adts = head[:1] == b"\xff" and len(head) > 1 and head[1] & 0xF6 == 0xF0
    return (
        head[4:8] == b"ftyp" or head[:4] in (b"\x1aE\xdf\xa3", b"\x30\x26\xb2\x75") or head[:5] == b"#!AMR" or is_adts
    )


def _check_rate(rate: int) -> int:
    if not SAMPLE_RATES[0] <= rate <= SAMPLE_RATES[1]:
        raise AudioError(f"implausible sampling rate of {rate} Hz", reason="bad_sample_rate")
    return rate


def _too_long(seconds: float, max_seconds: float) -> AudioError:
    return AudioError(f"at least {seconds:.1f} s before trimming, limit {max_seconds:g} s", reason="recording_too_long")


def _one_line(error: Exception) -> str:
    """Return an error's words without line ends and without the name of Python's file object."""
    text = getattr(error, "error_string", None) or getattr(error, "strerror", None) or str(error)
    return " ".join(str(text).split())
