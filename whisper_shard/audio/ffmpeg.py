"""FFmpeg, through PyAV: recordings in containers that libsndfile does not know.

FFmpeg opens nothing by itself: it gets an open file, the one demuxer that fits the file's first bytes, and no protocol.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, NoReturn

import numpy as np
from numpy.typing import NDArray

from whisper_shard.audio.content import find_demuxer_of_file
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
from whisper_shard.errors import AudioError
from whisper_shard.utterance import SAMPLE_RATE, Waveform

_HAS_DURATION = frozenset({"matroska", "asf", "flv"})
"""Demuxers whose duration comes from the header; most others estimate it from the size of the file, cut or not."""
_MISSING_SECONDS, _MISSING_SHARE = 0.25, 0.02  # a header may be wrong by the last packets and by its rounding
_TICKS_PER_SECOND = 1_000_000  # of container.duration


class AvDecoder:
    """FFmpeg through PyAV: the first audio stream of m4a, mp4, webm, mkv, aac, wma, amr, mp3, avi, flv ..."""

    def claims(self, _head: bytes, _suffix: str, /) -> bool:
        """Claim everything: what an mp3 file is may only be known behind its first bytes."""
        return True

    def decode(self, file: BinaryIO, *, max_seconds: float) -> Recording:
        """Decode with FFmpeg to planar float32, then average the channels."""
        waveforms: list[Waveform] = [np.zeros(0, np.float32)]
        channels, rate, num_samples = ChannelComparison(), SAMPLE_RATE, 0
        for block in self.read_blocks(file, start_seconds=0.0):
            rate, num_samples = block.sample_rate, block.position + block.channels.shape[1]
            channels.add(block.channels)
            waveforms.append(mix(block.channels))
            if num_samples > max_seconds * rate:
                raise too_long(num_samples / rate, max_seconds)
        return Recording(
            waveform=np.concatenate(waveforms), sample_rate=rate, channel_correlation=channels.correlation()
        )

    def read_blocks(self, file: BinaryIO, *, start_seconds: float) -> Iterator[AudioBlock]:  # noqa: ARG002
        """Yield each frame, from the beginning: most of these formats cannot be entered at an exact sample."""
        demuxer = find_demuxer_of_file(file)
        if demuxer is None:
            raise UnknownFormatError("no audio format begins like this")
        check_container(file)
        file.seek(0)
        with _opened(file, demuxer) as (av, container):
            yield from _read_frames(av, container, has_duration=demuxer in _HAS_DURATION)


@contextmanager
def _opened(file: BinaryIO, demuxer: str) -> Iterator[tuple[Any, Any]]:
    import av  # 20 MB and 0.2 s that most corpora do not need

    try:
        options = {"format_whitelist": demuxer, "protocol_whitelist": "none"}
        with av.open(
            file, mode="r", format=demuxer, container_options=options, io_open=_refuse, metadata_errors="ignore"
        ) as container:
            if not container.streams.audio:
                raise AudioError("holds no audio stream")
            yield av, container
    except IndexError as error:  # PyAV knows only the streams that were there when the file was opened
        raise AudioError("damaged: a packet belongs to no stream") from error
    except (av.FFmpegError, ValueError, OverflowError) as error:
        words = one_line(error)
        if demuxer == "mp3" and isinstance(error, av.InvalidDataError):
            words = f"damaged, or no two consecutive MPEG audio frames ({words})"
        raise AudioError(words) from error


def _refuse(url: str, _flags: int, _options: dict[str, str]) -> NoReturn:
    """Keep a demuxer from opening anything but the file it was given."""
    raise AudioError(f"refers to another file: {url[:200]!r}")


def load_ffmpeg() -> None:
    """Import what the decoder would otherwise import when it is first needed."""
    import av  # noqa: F401


class _Channels:
    """Converts frames, whose layout may change from one to the next, to float32."""

    def __init__(self, av: Any) -> None:
        self._av = av
        self._layout: tuple[str, str] | None = None
        self._resampler: Any = None

    def convert(self, frame: Any) -> Iterator[NDArray[np.float32]]:
        """Yield a frame's channels, shape (channels, samples)."""
        layout = (frame.layout.name, frame.format.name)
        if layout != self._layout:
            self._layout, self._resampler = layout, self._av.AudioResampler(format="fltp")
        for planar in self._resampler.resample(frame):
            yield planar.to_ndarray()


def _read_frames(av: Any, container: Any, *, has_duration: bool) -> Iterator[AudioBlock]:
    stream, channels = container.streams.audio[0], _Channels(av)
    if stream.codec_context is None:
        raise AudioError("holds audio that FFmpeg has no decoder for")
    rate = position = 0
    end_seconds = 0.0
    for packet in container.demux():
        if packet.pts is not None:
            end_seconds = max(end_seconds, float((packet.pts + (packet.duration or 0)) * packet.time_base))
        for frame in packet.decode() if packet.stream is stream else ():
            rate = rate or check_rate(frame.sample_rate)
            if frame.sample_rate != rate:
                raise AudioError(f"changes its sampling rate from {rate} to {frame.sample_rate} Hz")
            for block in channels.convert(frame):
                yield AudioBlock(channels=block, sample_rate=rate, position=position)
                position += block.shape[1]
    if has_duration and container.duration is not None and rate:
        _check_end(container.duration / _TICKS_PER_SECOND, max(end_seconds, position / rate))


def _check_end(promised: float, present: float) -> None:
    """Compare the duration in the header with the end of the last packet of any stream."""
    if present < promised * (1 - _MISSING_SHARE) - _MISSING_SECONDS:
        raise cut_off(f"{promised:.2f} s", f"{present:.2f} s", who="the container")
