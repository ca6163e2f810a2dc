"""A long recording becomes utterances, cut where nobody speaks, while it is decoded once and held in pieces."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from whisper_shard.audio.pauses import PauseCutter
from whisper_shard.audio.recording import AudioBlock, ChannelComparison, Recording, pick_channel
from whisper_shard.audio.resample import Resampler
from whisper_shard.audio.speech import SpeechLimits, SpeechSpan, SpeechStream
from whisper_shard.errors import AudioError
from whisper_shard.utterance import SAMPLE_RATE

PAD_SECONDS = 0.2
"""Audio kept before and after the speech of an utterance, as far as the pause is so long: soft beginnings and ends."""

DAMAGE_SECONDS = 0.1
"""Speech that ends so near to damage does not end there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CutUtterance:
    """A part of a recording in which somebody speaks."""

    start_seconds: float
    """Where it begins in the recording."""
    end_seconds: float
    """Where it ends."""
    recording: Recording
    """Its audio, at the rate of the recording."""


class RecordingCutter:
    """Cuts one recording, whose blocks may be of any length."""

    def __init__(self, blocks: Iterator[AudioBlock], *, channel: int | None, max_seconds: float) -> None:
        """Prepare to cut.

        Args:
            blocks: The recording from its beginning to its end.
            channel: Which channel, from 0; None: the average of all.
            max_seconds: An utterance is shorter.
        """
        self._blocks, self._channel = blocks, channel
        limit = max_seconds - 2 * PAD_SECONDS
        self._speech = SpeechStream(SpeechLimits(pad_seconds=0.0, max_seconds=limit))
        self._cutter = PauseCutter[SpeechSpan](max_seconds=limit)
        self._kept, self._begin, self._end = deque[NDArray[np.float32]](), 0, 0
        self._rate = SAMPLE_RATE
        self._last_end = 0.0  # of the speech of the utterance before

    @property
    def seconds(self) -> float:
        """Length of the recording, as far as it is decoded."""
        return self._end / self._rate

    def cut(self) -> Iterator[CutUtterance]:
        """Yield the utterances in order.

        Raises:
            AudioError: The recording is damaged from here on, or has no such channel.
            ConfigError: What finds speech is not installed.
            OSError: The disk cannot give its bytes.
        """
        resampler: Resampler | None = None
        fault: AudioError | None = None
        try:
            for block in self._blocks:
                if resampler is None:
                    self._rate = block.sample_rate
                    resampler = Resampler(block.sample_rate)
                self._kept.append(block.channels)
                self._end += block.channels.shape[1]
                yield from self._listen(self._speech.add(resampler.add(pick_channel(block.channels, self._channel))))
                yield from map(self._cut, self._cutter.wait_until(self._speech.settled / SAMPLE_RATE))
                self._forget()
        except AudioError as error:
            fault = error
        if resampler is not None:
            rest = resampler.finish()
            last = chain(self._speech.add(rest), self._speech.finish())
            # What is said where damage begins is not heard to its end.
            spans = (span for span in last if fault is None or span.end_seconds < self.seconds - DAMAGE_SECONDS)
            yield from self._listen(spans)
            yield from map(self._cut, self._cutter.finish())
        if fault is not None:
            raise fault

    def _listen(self, spans: Iterator[SpeechSpan]) -> Iterator[CutUtterance]:
        for span in spans:
            yield from map(self._cut, self._cutter.add(span))

    def _cut(self, spans: Sequence[SpeechSpan]) -> CutUtterance:
        """Return the audio of an utterance, and of the pauses around it."""
        begin, end = spans[0].start_seconds, spans[-1].end_seconds
        # What waits comes next; without it, the pause is long, or the recording is over.
        next_begin = self._cutter.waiting[0].start_seconds if self._cutter.waiting else end + PAD_SECONDS
        start = max(self._last_end, begin - PAD_SECONDS)
        stop = min(next_begin, end + PAD_SECONDS, self.seconds)
        self._last_end = end
        channels = self._take(round(start * self._rate), round(stop * self._rate))
        comparison = ChannelComparison()
        comparison.add(channels)
        waveform = np.array(pick_channel(channels, self._channel))
        return CutUtterance(
            start_seconds=round(start, 4),
            end_seconds=round(stop, 4),
            recording=Recording(
                waveform=waveform, sample_rate=self._rate, channel_correlation=comparison.correlation()
            ),
        )

    def _take(self, start: int, stop: int) -> NDArray[np.float32]:
        found, position = list[NDArray[np.float32]](), self._begin
        for block in self._kept:
            after = position + block.shape[1]
            if after > start and position < stop:
                found.append(block[:, max(0, start - position) : stop - position])
            position = after
        return np.concatenate(found, axis=1)

    def _forget(self) -> None:
        """Drop the blocks that no further utterance needs."""
        waiting = self._cutter.waiting
        begin = waiting[0].start_seconds if waiting else self._speech.settled / SAMPLE_RATE
        needed = int(max(0.0, begin - PAD_SECONDS) * self._rate)
        while len(self._kept) > 1 and self._begin + self._kept[0].shape[1] <= needed:
            self._begin += self._kept.popleft().shape[1]
