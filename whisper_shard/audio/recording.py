"""What decoders have in common: their interface, what they return, and the checks that all of them make."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from whisper_shard.audio.truncation import find_cut
from whisper_shard.errors import AudioError
from whisper_shard.utterance import Waveform

SAMPLE_RATES = (1_000, 768_000)
"""Lowest and highest sampling rate, in Hz, of a recording that is accepted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """The audio of one file."""

    waveform: Waveform
    """All channels averaged, at the file's own rate; usually in [-1, 1]."""
    sample_rate: int
    """Of the waveform, in Hz."""
    channel_correlation: float | None = None
    """Least correlation between the first channel and another, -1 to 1; None: one channel, or not known."""


class Decoder(Protocol):
    """One way to turn a file into a waveform."""

    def claims(self, head: bytes, suffix: str, /) -> bool:
        """Return whether this decoder should try a file that begins with ``head`` and is named ``*.suffix``."""
        ...

    def decode(self, file: BinaryIO, *, max_seconds: float) -> Recording:
        """Decode an open file.

        Raises:
            AudioError: It is damaged, cut off, or longer than ``max_seconds``. Only the reason ``decode_failed`` lets
                the next decoder try.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioBlock:
    """A stretch of a recording, with all channels."""

    channels: NDArray[np.float32]
    """Shape (channels, samples), at the file's own rate."""
    sample_rate: int
    """In Hz."""
    position: int
    """Number of its first sample in the recording."""


@runtime_checkable
class BlockDecoder(Protocol):
    """A decoder that need not decode the whole recording, and keeps its channels apart."""

    def read_blocks(self, file: BinaryIO, *, start_seconds: float) -> Iterator[AudioBlock]:
        """Yield an open file's audio in order, to its end.

        Args:
            file: Open for reading, seekable, at its beginning.
            start_seconds: Audio before this may be left out, where the format can be entered at any sample.

        Raises:
            AudioError: It is damaged or cut off; what comes before the damage is yielded first.
        """
        ...


class UnknownFormatError(AudioError):
    """The decoder does not know the format; where another one does, that one's words count."""


def check_rate(rate: int) -> int:
    """Return the sampling rate.

    Raises:
        AudioError: It is outside of SAMPLE_RATES.
    """
    if not SAMPLE_RATES[0] <= rate <= SAMPLE_RATES[1]:
        raise AudioError(f"implausible sampling rate of {rate} Hz", reason="bad_sample_rate")
    return rate


def too_long(seconds: float, max_seconds: float) -> AudioError:
    """Return the error for a recording of at least so many seconds."""
    return AudioError(f"at least {seconds:.1f} s before trimming, limit {max_seconds:g} s", reason="recording_too_long")


def cut_off(promised: object, present: object, *, who: str = "the header") -> AudioError:
    """Return the error for a file that ends before ``who`` says."""
    return AudioError(f"cut off: {who} promises {promised}, {present} are there", reason="truncated")


def check_container(file: BinaryIO) -> None:
    """Compare the file's length with what its container says.

    Raises:
        AudioError: It is cut off.
    """
    if cut := find_cut(file):
        raise AudioError(cut, reason="truncated")


class ChannelComparison:
    """Compares the first channel of a recording with the others, block by block, before they are averaged.

    The correlation of x and y is their scalar product divided by both norms; means are not removed, since audio has
    none. A silent channel correlates with none.
    """

    def __init__(self) -> None:
        self._products: NDArray[np.float64] | None = None
        self._energies: NDArray[np.float64] | None = None

    def add(self, channels: NDArray[np.float32]) -> None:
        """Take in a block, shape (channels, samples); the number of channels may change, and then nothing is known."""
        if len(channels) == 1 and self._products is None:
            return
        products = np.array([np.dot(channels[0], other) for other in channels], np.float64)
        energies = np.array([np.dot(other, other) for other in channels], np.float64)
        if self._products is None or self._energies is None:
            self._products, self._energies = np.zeros(len(channels)), np.zeros(len(channels))
        if len(self._products) != len(channels):
            products = np.full(len(self._products), np.nan)
            energies = products
        self._products, self._energies = self._products + products, self._energies + energies

    def correlation(self) -> float | None:
        """Return the least correlation; None where there is one channel, or not always the same number."""
        if self._products is None or self._energies is None or not np.isfinite(self._products).all():
            return None
        norms = np.sqrt(self._energies[0] * self._energies[1:])
        found = np.divide(self._products[1:], norms, out=np.zeros(len(norms)), where=norms > 0)
        return float(np.clip(found.min(), -1.0, 1.0))


def mix(channels: NDArray[np.float32]) -> Waveform:
    """Average (channels, samples) to (samples,); two channels by one addition, much faster than a mean."""
    if len(channels) == 2:
        mixed: Waveform = (channels[0] + channels[1]) * np.float32(0.5)
    else:
        mixed = channels.mean(axis=0, dtype=np.float32)
    return mixed


def pick_channel(channels: NDArray[np.float32], channel: int | None) -> Waveform:
    """Return one channel of (channels, samples), or the average of all where ``channel`` is None.

    Raises:
        AudioError: There is no such channel.
    """
    if channel is None:
        return mix(channels)
    if channel >= len(channels):
        has = "1 channel" if len(channels) == 1 else f"{len(channels)} channels"
        raise AudioError(f"has {has}, so there is no channel {channel} (counted from 0)", reason="missing_channel")
    waveform: Waveform = channels[channel]
    return waveform


def one_line(error: Exception) -> str:
    """Return an error's words without line ends and without the name of Python's file object."""
    text = getattr(error, "error_string", None) or getattr(error, "strerror", None) or str(error)
    return " ".join(str(text).split())


MakeDecoder = Callable[[], Decoder]
"""Makes a decoder in the process that uses it."""
