"""Parts of long recordings, cut out while the recording is decoded once.

A reader keeps the last recording open, and of its audio only what the next part may still need. So a recording of ten
hours takes the memory of its longest part, and one pass over it serves all parts that are asked for in the order of
their beginnings. A part that begins before the last one costs another pass.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from whisper_shard.audio.decoders import read_blocks
from whisper_shard.audio.recording import AudioBlock, ChannelComparison, Decoder, Recording, pick_channel, too_long
from whisper_shard.errors import AudioError

END_TOLERANCE_SECONDS = 0.25
"""How far behind the end of the recording a part may end: lengths are rounded, and encoders add or cut silence."""
OpenFile = Callable[[], BinaryIO]
"""Opens a recording."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What to read of a recording."""

    start_seconds: float = 0.0
    """Where it begins."""
    end_seconds: float | None = None
    """Where it ends; None: at the end of the recording."""
    channel: int | None = None
    """Which channel, from 0; None: the average of all."""


class SegmentReader:
    """Reads parts of recordings, one recording at a time."""

    def __init__(self, decoders: Sequence[Decoder]) -> None:
        self._decoders = decoders
        self._stream: _Stream | None = None
        self.num_passes = 0  # recordings opened so far

    def read(self, recording: str, suffix: str, open_file: OpenFile, part: Part, *, max_seconds: float) -> Recording:
        """Return a part of a recording.

        Args:
            recording: A name for it; as long as it stays the same, the open file is used.
            suffix: Of the file's name, without dot, lower case.
            open_file: Opens it.
            part: What to read.
            max_seconds: A longer part is rejected.

        Raises:
            AudioError: It cannot be decoded so far, ends before the part does, has no such channel, or the part is too
                long.
            OSError: The machine failed, not the file.
        """
        if part.end_seconds is not None and part.end_seconds - part.start_seconds > max_seconds:
            raise too_long(part.end_seconds - part.start_seconds, max_seconds)
        try:
            if self._stream is None or not self._stream.reaches(recording, part.start_seconds):
                self.close()
                self.num_passes += 1
                self._stream = _Stream(recording=recording)
                self._stream.open(open_file, suffix, self._decoders, part.start_seconds)
            return self._stream.cut(part, max_seconds)
        except (OSError, MemoryError):
            self.close()  # unlike an AudioError, this says nothing about the rest of the recording
            raise

    def close(self) -> None:
        """Close the recording that is open."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None


@dataclass(slots=True, kw_only=True)
class _Stream:
    """A recording that is being decoded, and the audio that may still be needed."""

    recording: str
    file: BinaryIO | None = None
    blocks: Iterator[AudioBlock] = field(default_factory=lambda: iter(()))
    kept: list[NDArray[np.float32]] = field(default_factory=list)
    sample_rate: int = 0
    begin: int = 0
    """Number of the first sample that is kept."""
    end: int = 0
    """Number of the sample behind the last that is kept."""
    error: AudioError | None = None
    """Why decoding ended before the recording did."""
    is_over: bool = False

    def open(self, open_file: OpenFile, suffix: str, decoders: Sequence[Decoder], start_seconds: float) -> None:
        """Decode the first block; an error is kept, so that the recording is not opened again for its next part."""
        try:
            self.file = open_file()
            self.blocks = read_blocks(self.file, suffix=suffix, decoders=decoders, start_seconds=start_seconds)
            block = next(self.blocks)
        except AudioError as error:
            self.error, self.is_over = error, True
            return
        self.sample_rate, self.begin, self.end = block.sample_rate, block.position, block.position
        self._keep(block)

    def reaches(self, recording: str, start_seconds: float) -> bool:
        """Return whether a part that begins here can still be cut out."""
        return self.recording == recording and round(start_seconds * self.sample_rate) >= self.begin

    def cut(self, part: Part, max_seconds: float) -> Recording:
        """Decode up to the end of a part, and return it."""
        if self.error is not None and not self.kept:
            raise self.error
        rate = self.sample_rate
        start = round(part.start_seconds * rate)
        end = None if part.end_seconds is None else round(part.end_seconds * rate)
        limit = start + round(max_seconds * rate)
        while not self.is_over and (end is None or self.end < end):
            self._forget(start)
            if self.end > limit:
                raise too_long((self.end - start) / rate, max_seconds)
            self._decode()
        self._forget(start)
        self._check(part, start, end)
        if end is None and self.end > limit:
            raise too_long((self.end - start) / rate, max_seconds)
        channels = np.concatenate(self.kept, axis=1)[:, start - self.begin :]
        self.kept, self.begin = [channels], start
        found = channels if end is None else channels[:, : end - start]
        # A copy, since the caller may write into it, and the next part may overlap with this one.
        comparison = ChannelComparison()
        comparison.add(found)
        return Recording(
            waveform=np.array(pick_channel(found, part.channel)),
            sample_rate=rate,
            channel_correlation=comparison.correlation(),
        )

    def close(self) -> None:
        """Close the file."""
        self.blocks, self.kept = iter(()), []
        if self.file is not None:
            self.file.close()

    def _check(self, part: Part, start: int, end: int | None) -> None:
        """Check that the part lies within what could be decoded."""
        if self.error is not None and (end is None or end > self.end):
            raise self.error
        behind = (self.end if end is None else end) - self.end
        if start >= self.end or behind > END_TOLERANCE_SECONDS * self.sample_rate:
            words = "end" if part.end_seconds is None else f"{part.end_seconds:g} s"
            raise AudioError(
                f"from {part.start_seconds:g} s to {words}, but the recording has {self.end / self.sample_rate:.3f} s",
                reason="segment_outside",
            )

    def _decode(self) -> None:
        try:
            block = next(self.blocks, None)
        except AudioError as error:
            self.error, block = error, None
        if block is None:
            self.is_over = True
        else:
            self._keep(block)

    def _keep(self, block: AudioBlock) -> None:
        if self.kept and len(self.kept[0]) != len(block.channels):
            self.error, self.is_over = AudioError("changes its number of channels"), True
            return
        self.kept.append(block.channels)
        self.end += block.channels.shape[1]

    def _forget(self, start: int) -> None:
        """Drop the blocks that end before a sample; parts come in the order in which they begin."""
        while len(self.kept) > 1 and self.begin + self.kept[0].shape[1] <= start:
            self.begin += self.kept.pop(0).shape[1]
