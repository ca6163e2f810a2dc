"""Transcribe recordings of any length, window after window, several recordings side by side.

Two ways through a recording. Led by times, as Whisper does it: each window of 30 s begins where the last complete
segment of the window before it ended. By speech: windows are known beforehand, each around some stretches of speech,
and may be decoded together.

Source: openai/whisper transcribe.py; arXiv:2212.04356, section 4.5. By speech: WhisperX, arXiv:2303.00747.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from whisper_shard.errors import ConfigError
from whisper_shard.inference.decoder import InferenceDecoder
from whisper_shard.inference.encoder import InferenceEncoder
from whisper_shard.inference.fallback import DecodedWindow, FallbackRules, decode_with_fallback
from whisper_shard.inference.greedy import SuppressRules, end_token
from whisper_shard.inference.language import hear_languages, language_tokens
from whisper_shard.inference.spectrogram import Spectrogram
from whisper_shard.inference.timestamps import LATEST_START, TimedTokens, TimestampRules, split_segments
from whisper_shard.inference.window_decoder import WindowDecoder
from whisper_shard.inference.words import Word, align_tokens, split_words
from whisper_shard.model.device import is_out_of_memory
from whisper_shard.model.labels import Labeler
from whisper_shard.model.whisper import LoadedWhisper
from whisper_shard.model.window import longest_window
from whisper_shard.text.languages import WITHOUT_SPACES
from whisper_shard.utterance import FRAMES_PER_SECOND, HOP_LENGTH

FORGET_ABOVE = 0.5
"""Text drawn at a higher temperature is not told to the next window. Source: openai/whisper transcribe.py."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LongFormSettings:
    """How recordings are transcribed."""

    language: str = ""
    """BCP-47 tag or name; empty: the one heard in the first window of each recording."""
    task: str = "transcribe"
    """transcribe or translate."""
    fallback: FallbackRules = field(default_factory=FallbackRules)
    """Temperatures and thresholds."""
    max_new_tokens: int = 224
    """Most tokens of a window, end token included. Source: openai/whisper decoding.py."""
    condition_on_previous: bool = False
    """Whether each window is told the text before it."""
    seed: int = 0
    """Of the random numbers of temperatures above 0."""
    word_timestamps: bool = False
    """Whether to find out when each word is said."""
    dtype: torch.dtype = torch.float32
    """Dtype of matrix products."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeardRecording:
    """A recording that is ready to be transcribed."""

    name: str
    """By which its random numbers are keyed, and results are told apart."""
    spectrogram: Spectrogram
    """All of it."""
    windows: tuple[tuple[int, int], ...] | None = None
    """First frame and frame behind the last of windows around speech, in order; None: windows led by times."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpokenSegment:
    """A stretch of a recording with its text."""

    start: float
    """Where it begins in the recording, in seconds."""
    end: float
    """Where it ends."""
    text: str
    """As decoded, mostly with a space in front."""
    token_ids: tuple[int, ...]
    """Its tokens with those of its times."""
    temperature: float
    """At which its window was decoded."""
    avg_logprob: float
    """Of its window, see `Hypothesis`."""
    compression_ratio: float
    """Of the text of its window."""
    no_speech_probability: float
    """Of its window, see `Hypothesis`."""
    words: tuple[Word, ...] | None = None
    """Its words with their times in the recording; None: not asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowResult:
    """What one more window added to the transcript of a recording."""

    name: str
    """Of the recording."""
    language: str
    """Whisper's code; empty: an English-only model, or nothing was decoded."""
    segments: tuple[SpokenSegment, ...]
    """In order."""
    position_seconds: float
    """Up to where the recording is transcribed."""
    is_last: bool
    """Whether it is finished."""


@dataclass(slots=True, kw_only=True)
class _Track:
    """A recording that is being transcribed."""

    recording: HeardRecording
    loudest: Tensor
    window_frames: int
    language: str
    history: list[int] = field(default_factory=list)
    """Tokens of the text so far that the next window may be told."""
    position: int = 0
    """Frame up to which everything is decoded."""
    num_decoded: int = 0

    def windows(self) -> Iterator[tuple[int, int]]:
        """Yield the windows that can be decoded now."""
        if self.recording.windows is not None:
            yield from self.recording.windows[self.num_decoded :]
        elif not self.is_over:
            yield self.position, min(self.position + self.window_frames, self.recording.spectrogram.num_frames)

    @property
    def is_over(self) -> bool:
        if self.recording.windows is not None:
            return self.num_decoded >= len(self.recording.windows)
        return self.position >= self.recording.spectrogram.num_frames


class _Job(NamedTuple):
    track: _Track
    start: int
    end: int


class LongFormTranscriber:
    """Transcribes recordings with the current weights of a model, on its device.

    Args:
        loaded: The model, in evaluation mode.
        settings: Language, task, thresholds and so on.

    Raises:
        ConfigError: Unknown language or task, a tokenizer without times, or words are asked for and the model does not
            say which heads follow the audio.
    """

    def __init__(self, loaded: LoadedWhisper, settings: LongFormSettings) -> None:
        model, vocabulary = loaded.model, loaded.tokenizer.get_vocab()
        self._labeler = Labeler(
            loaded.tokenizer, settings.language, settings.task, is_multilingual=loaded.is_multilingual
        )
        self._settings = settings
        self._device = model.device
        self.window_frames = longest_window(model) // HOP_LENGTH
        """Frames of a window: 3,000."""
        self._encoder = InferenceEncoder(model, settings.dtype)
        self._decoder = InferenceDecoder(model, settings.dtype)
        self._languages = language_tokens(vocabulary) if loaded.is_multilingual else {}
        self._end_id = end_token(model)
        first_time = self._labeler.time_id(0.0)
        latest = getattr(model.generation_config, "max_initial_timestamp_index", None)
        self._times = TimestampRules(
            first_time=first_time, end_id=self._end_id, latest_start=LATEST_START if latest is None else latest
        )
        self._heads = _alignment_heads(loaded) if settings.word_timestamps else ()
        self._windows = WindowDecoder(
            self._decoder,
            rules=SuppressRules.of(model),
            times=self._times,
            start_id=self._labeler.start_id,
            no_speech_id=first_time - 2,  # <|nospeech|>, in some tokenizers called <|nocaptions|>
        )

    def transcribe(self, recordings: Iterable[HeardRecording], *, batch: int) -> Iterator[WindowResult]:
        """Yield the results of windows as they are decoded; those of one recording in order.

        Args:
            recordings: Taken when there is room for another.
            batch: Windows decoded together: of as many recordings, or of one whose windows are known.

        Raises:
            ConfigError: So many windows do not fit into memory.
        """
        source = iter(recordings)
        tracks: list[_Track] = []
        is_more = True
        while is_more or tracks:
            while is_more and sum(1 for track in tracks for _ in track.windows()) < batch:
                if is_more := (recording := next(source, None)) is not None:
                    track = self._begin(recording)
                    if track.is_over:
                        yield WindowResult(
                            name=recording.name, language=track.language, segments=(), is_last=True,
                            position_seconds=recording.spectrogram.seconds,
                        )  # fmt: skip
                    else:
                        tracks.append(track)
            jobs = [_Job(track, *window) for track in tracks for window in track.windows()][:batch]
            if jobs:
                yield from self._decode_or_explain(jobs)
            tracks = [track for track in tracks if not track.is_over]

    def _begin(self, recording: HeardRecording) -> _Track:
        return _Track(
            recording=recording,
            loudest=recording.spectrogram.log_power.amax(),
            window_frames=self.window_frames,
            language=self._settings.language if self._languages else "",
        )

    def _decode_or_explain(self, jobs: Sequence[_Job]) -> list[WindowResult]:
        try:
            return self._decode(jobs)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise ConfigError(
                f"{len(jobs)} windows at once do not fit into the memory of {self._device}; use a smaller --batch"
            ) from error

    def _decode(self, jobs: Sequence[_Job]) -> list[WindowResult]:
        log_mel = torch.stack(
            [
                track.recording.spectrogram.window(
                    start,
                    end,
                    num_frames=self.window_frames,
                    loudest=track.loudest,
                    then_silence=track.recording.windows is not None,
                )
                for track, start, end in jobs
            ]
        )
        states = self._encoder.encode(log_mel.to(self._device))
        self._hear_languages(jobs, states)
        decoded = decode_with_fallback(
            self._windows,
            states,
            [self._prefix(track) for track, _, _ in jobs],
            names=[f"{self._settings.seed} {job.track.recording.name} {job.start}" for job in jobs],
            rules=self._settings.fallback,
            max_new_tokens=self._settings.max_new_tokens,
            decode_text=self._text_of,
        )
        return [
            self._finish(job, window, states[row : row + 1])
            for row, (job, window) in enumerate(zip(jobs, decoded, strict=True))
        ]

    def _hear_languages(self, jobs: Sequence[_Job], states: Tensor) -> None:
        """Set the language of recordings whose first window this is."""
        rows = {id(job.track): row for row, job in reversed(list(enumerate(jobs))) if not job.track.language}
        if not rows or not self._languages:
            return
        numbers = sorted(rows.values())
        codes = hear_languages(self._decoder, states[numbers], self._languages, start_id=self._labeler.start_id)
        for row, code in zip(numbers, codes, strict=True):
            jobs[row].track.language = code

    def _prefix(self, track: _Track) -> list[int]:
        prefix = list(self._labeler.prefix_ids(track.language or None, None, timestamps=True))
        if self._settings.condition_on_previous and track.history:
            room = self._decoder.max_positions // 2 - 1
            return [self._labeler.previous_id, *track.history[-room:], *prefix]
        return prefix

    def _finish(self, job: _Job, window: DecodedWindow, states: Tensor) -> WindowResult:
        """Add what was decoded from encoder states (1, T // 2, D) to a track, and return it."""
        track, num_frames = job.track, job.end - job.start
        is_led_by_times = track.recording.windows is None
        segments: tuple[TimedTokens, ...] = ()
        advance = num_frames
        if not window.is_silent:
            segments, advance = split_segments(
                window.hypothesis.token_ids,
                first_time=self._times.first_time,
                num_frames=num_frames,
                keep_rest=not is_led_by_times,
            )
        track.position = job.start + advance if is_led_by_times else job.end
        track.num_decoded += 1
        if window.temperature > FORGET_ABOVE:
            track.history.clear()
        else:
            track.history += chain.from_iterable(segment.token_ids for segment in segments)
        del track.history[: -self._decoder.max_positions]
        length = track.recording.spectrogram.seconds
        words = self._find_words(job, segments, states) if self._settings.word_timestamps else [None] * len(segments)
        spoken = (self._describe(*pair, job, window) for pair in zip(segments, words, strict=True))
        return WindowResult(
            name=track.recording.name,
            language=track.language,
            segments=tuple(segment for segment in spoken if segment.text.strip()),
            position_seconds=length if track.is_over else track.position / FRAMES_PER_SECOND,
            is_last=track.is_over,
        )

    def _find_words(
        self, job: _Job, segments: Sequence[TimedTokens], states: Tensor
    ) -> Sequence[tuple[Word, ...] | None]:
        """Return the words of each segment."""
        texts = [[token for token in segment.token_ids if token < self._end_id] for segment in segments]
        text = list(chain.from_iterable(texts))
        if not text:
            return [()] * len(segments)
        language = job.track.language
        prefix = self._labeler.prefix_ids(language or None, None)
        room = self._decoder.max_positions - len(prefix) - 1
        aligned = align_tokens(
            self._decoder, states, prefix, text[:room], end_id=self._end_id, heads=self._heads,
            num_frames=job.end - job.start,
        )  # fmt: skip
        times = np.minimum(job.start / FRAMES_PER_SECOND + aligned.times, job.end / FRAMES_PER_SECOND)
        found, first = [], 0
        for ids in texts:
            words = []
            for word, count in split_words(
                ids[: room - first], self._text_of, has_spaces=language not in WITHOUT_SPACES
            ):
                probability = float(aligned.probabilities[first : first + count].mean())
                start, end = float(times[first]), float(times[first + count])
                words.append(Word(start=start, end=end, word=word, probability=probability))
                first += count
            found.append(tuple(words))
        return found

    def _describe(
        self, segment: TimedTokens, words: tuple[Word, ...] | None, job: _Job, window: DecodedWindow
    ) -> SpokenSegment:
        # In the zeros after the audio of a window a model may still name times.
        start, end = (min(job.start + frame, job.end) / FRAMES_PER_SECOND for frame in (segment.start, segment.end))
        return SpokenSegment(
            start=start,
            end=end,
            text=self._text_of(segment.token_ids),
            token_ids=segment.token_ids,
            temperature=window.temperature,
            avg_logprob=window.hypothesis.avg_logprob,
            compression_ratio=window.compression_ratio,
            no_speech_probability=window.hypothesis.no_speech_probability,
            words=words,
        )

    def _text_of(self, token_ids: Sequence[int]) -> str:
        text: str = self._labeler.tokenizer.decode(
            [token for token in token_ids if token < self._end_id], clean_up_tokenization_spaces=False
        )
        return text


def _alignment_heads(loaded: LoadedWhisper) -> tuple[tuple[int, int], ...]:
    """Return layer and head of those that follow the audio.

    Raises:
        ConfigError: The model does not say.
    """
    heads = getattr(loaded.model.generation_config, "alignment_heads", None)
    if not heads:
        raise ConfigError(
            f"--word-timestamps: {loaded.path} names no alignment_heads in its generation_config.json; copy them from "
            "the model that it was trained from"
        )
    return tuple((int(layer), int(head)) for layer, head in heads)
