"""The types that all packages share: a row of the manifest, an utterance, a rejection, and the numbers of Whisper.

Preparation is a chain of functions from one of these types to the next.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE = 16_000
"""Samples per second of every waveform in a shard. Source: Whisper, arXiv:2212.04356, section 2.2."""
HOP_LENGTH = 160
"""Samples between two frames of the log-mel spectrogram (10 ms)."""
N_FFT = 400
"""Samples in one window of the short-time Fourier transform (25 ms)."""
MAX_SECONDS = 30.0
"""The window of Whisper's encoder."""
MAX_SAMPLES = round(MAX_SECONDS * SAMPLE_RATE)
"""The same in samples: 480,000."""
FRAMES_PER_SECOND = SAMPLE_RATE // HOP_LENGTH
"""Log-mel frames per second: 100. The encoder halves them (50 positions a second)."""
MAX_LABEL_TOKENS = 448
"""Positions of Whisper's decoder: prefix, text and end token together."""
Waveform = NDArray[np.float32]
"""Mono audio, 1-D, nominally in [-1, 1]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestRow:
    """One line of the input list: a recording and what is said in it."""

    row: int
    """Position in the manifest, from 0, header not counted."""
    source: str
    """The audio path exactly as the manifest gives it; kept in the shard for tracing."""
    path: str
    """The file with the audio, resolved against the folder of the manifest."""
    transcript: str
    """Text as written in the manifest."""
    language: str | None = None
    """BCP-47 tag, where the manifest has a column ``language``."""
    speaker: str | None = None
    """Speaker name, where the manifest has a column ``speaker``."""
    task: str | None = None
    """``transcribe`` or ``translate``, where the manifest has a column ``task``."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Every other column, as text or as JSON value; stored beside the transcript."""
    file: str | None = None
    """The path as it would have to be in the manifest, where `source` is not quite it; None: `source`."""
    member: int | None = None
    """Row in the Parquet file at `path`, from 0, where the audio is embedded in one; None: `path` is the recording."""
    start_seconds: float | None = None
    """Where the utterance begins in the recording; None: at its beginning."""
    end_seconds: float | None = None
    """Where the utterance ends in the recording; None: at its end."""
    duration_seconds: float | None = None
    """Length of a whole recording according to the manifest, to be checked; None: not given."""
    channel: int | None = None
    """Channel of the recording, from 0; None: as the settings say."""
    part: int | None = None
    """Number of the utterance in a recording that was cut, from 0; None: the manifest lists it."""

    @property
    def recording(self) -> str:
        """A name of the recording that no other recording of the manifest has."""
        return self.path if self.member is None else f"{self.path}#{self.member}"

    @property
    def is_segment(self) -> bool:
        """Whether the utterance is a part of its recording."""
        return self.start_seconds is not None or self.end_seconds is not None

    def reject(self, reason: str, detail: str, *, seconds: float = 0.0) -> "Rejection":
        """Return the rejection of this row; for the arguments see `Rejection`."""
        return Rejection(row=self.row, source=self.source, reason=reason, detail=detail, seconds=seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """What is measured on an utterance, once, to be filtered by at any time; None: cannot be measured.

    `prepare/quality.py` says how, and gives the sources.
    """

    peak: float
    """Largest absolute sample of the recording as decoded, channels averaged; 1.0 is full scale."""
    rms_db: float
    """Root mean square after trimming and before levels are changed, in dB below full scale (0 or less, mostly)."""
    snr_db: float
    """Level of the speech above that of the quietest tenth of the utterance, in dB, -20 to 100."""
    clipped_fraction: float
    """Share of the samples of the recording that are cut off at its highest or lowest value, 0 to 1."""
    speech_fraction: float
    """Share of the time after trimming in which there is speech, 0 to 1."""
    bandwidth_hz: float
    """Highest frequency that is less than 50 dB below the strongest, in Hz, at the rate of the recording."""
    chars_per_second: float
    """Code points of normalized text by second after trimming."""
    channel_correlation: float | None
    """Least correlation between the first channel of the recording and another, -1 to 1; None: it has one channel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Phrase:
    """A part of an utterance's text, and when it is said."""

    start: float
    """Where it begins in the utterance, in seconds."""
    end: float
    """Where it ends."""
    text: str
    """Normalized text."""


def parse_phrases(value: Any, text: str) -> tuple[Phrase, ...]:
    """Return the phrases of a text as JSON holds them, or none where they are anything else or not of this text.

    Args:
        value: A list of objects with ``start``, ``end`` and ``text``, as Whisper's own output has them.
        text: The phrases with spaces between them.
    """
    if not isinstance(value, list):
        return ()
    try:
        phrases = tuple(
            Phrase(start=float(item["start"]), end=float(item["end"]), text=item["text"].strip()) for item in value
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return ()
    times = [time for phrase in phrases for time in (phrase.start, phrase.end)]
    is_ordered = all(0 <= before <= after for before, after in pairwise(times)) and all(map(math.isfinite, times))
    return phrases if is_ordered and " ".join(phrase.text for phrase in phrases) == text else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Utterance:
    """One stretch of speech with its text, ready to be stored."""

    key: str
    """Name in the shard, ``[A-Za-z0-9_-]{1,90}``, unique in the dataset."""
    waveform: Waveform
    """Mono, 16 kHz, in [-1, 1]."""
    text: str
    """Normalized transcript."""
    row: ManifestRow
    """Where it came from."""
    recording_seconds: float = 0.0
    """Length of the recording before trimming."""
    recording_rate: int = SAMPLE_RATE
    """Sampling rate of the recording, in Hz."""
    quality: Quality | None = None
    """What was measured; None: with ``--no-quality``."""
    phrases: tuple["Phrase", ...] = ()
    """The parts of the text with their times, where the manifest gives them."""

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return len(self.waveform) / SAMPLE_RATE

    def reject(self, reason: str, detail: str) -> "Rejection":
        """Return the rejection of this utterance: what a filter returns in order to drop it."""
        return self.row.reject(reason, detail, seconds=self.seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """A manifest row that was not kept, and why."""

    row: int
    """Position in the manifest, from 0."""
    source: str
    """The audio path as the manifest gives it."""
    reason: str
    """Code in snake_case, counted in the report: ``too_short``, ``missing_file``, ``decode_failed`` ..."""
    detail: str
    """The values behind the reason, for a human reader."""
    seconds: float = 0.0
    """Length of the rejected audio, where known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """One utterance within a row, or a phrase of one."""

    key: str
    """Key of the utterance in the dataset."""
    text: str
    """Transcript."""
    start_seconds: float
    """Where it begins in the row."""
    end_seconds: float
    """Where it ends in the row."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as a call, four times as fast: loader processes send every utterance in this way."""
        return _make_segment, (self.key, self.text, self.start_seconds, self.end_seconds)


def _make_segment(key: str, text: str, start_seconds: float, end_seconds: float) -> Segment:
    return Segment(key=key, text=text, start_seconds=start_seconds, end_seconds=end_seconds)
