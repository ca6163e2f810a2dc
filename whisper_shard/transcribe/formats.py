"""A transcript as a file: the formats of openai-whisper, so that what reads those reads these."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class TranscriptWord:
    """A word with its times."""

    start: float
    """Where it begins, in seconds."""
    end: float
    """Where it ends."""
    word: str
    """With the space in front and the signs around it."""
    probability: float
    """Mean probability of its tokens, 0 to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TranscriptSegment:
    """A stretch of a recording with its text."""

    start: float
    """Where it begins, in seconds."""
    end: float
    """Where it ends."""
    text: str
    """As decoded, mostly with a space in front."""
    temperature: float
    """At which it was decoded; above 0: drawn at random."""
    avg_logprob: float
    """Mean natural logarithm of the probability of a token in its window."""
    compression_ratio: float
    """How much zlib shortens the text of its window."""
    no_speech_prob: float
    """Probability that nobody speaks in its window."""
    words: tuple[TranscriptWord, ...] | None = None
    """With ``--word-timestamps``: its words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcript:
    """All that was found in a recording."""

    language: str | None
    """Whisper's code of the language; None: none was given, and nothing was decoded in which one could be heard."""
    seconds: float
    """Length of the recording."""
    segments: tuple[TranscriptSegment, ...]
    """In order."""

    @property
    def text(self) -> str:
        """The whole text."""
        return "".join(segment.text for segment in self.segments).strip()


def as_txt(transcript: Transcript) -> str:
    """Return one line for each segment."""
    return "".join(f"{segment.text.strip()}\n" for segment in transcript.segments)


def as_srt(transcript: Transcript) -> str:
    """Return SubRip subtitles."""
    return "".join(f"{number}\n{cue}\n" for number, cue in enumerate(_cues(transcript, ","), 1))


def as_vtt(transcript: Transcript) -> str:
    """Return WebVTT subtitles."""
    return "WEBVTT\n\n" + "".join(f"{cue}\n" for cue in _cues(transcript, "."))


def as_tsv(transcript: Transcript) -> str:
    """Return a table of start and end in milliseconds, and text."""
    rows = (
        f"{round(1000 * segment.start)}\t{round(1000 * segment.end)}\t{segment.text.strip().replace(chr(9), ' ')}\n"
        for segment in transcript.segments
    )
    return "start\tend\ttext\n" + "".join(rows)


def as_json(transcript: Transcript) -> str:
    """Return everything that is known."""
    return json.dumps(to_json(transcript), ensure_ascii=False, indent=1) + "\n"


FORMATS: Mapping[str, Callable[[Transcript], str]] = {
    "txt": as_txt,
    "srt": as_srt,
    "vtt": as_vtt,
    "json": as_json,
    "tsv": as_tsv,
}
"""By suffix."""


def to_json(transcript: Transcript) -> dict[str, Any]:
    """Return a transcript as JSON values."""
    return {
        "text": transcript.text,
        "language": transcript.language,
        "seconds": transcript.seconds,
        "segments": [
            {"id": number, **{name: value for name, value in asdict(segment).items() if value is not None}}
            for number, segment in enumerate(transcript.segments)
        ],
    }


def from_json(content: Mapping[str, Any]) -> Transcript:
    """Return the transcript that `to_json` was given.

    Raises:
        KeyError: Something is missing.
        TypeError: It has another form.
    """
    return Transcript(
        language=content["language"],
        seconds=content["seconds"],
        segments=tuple(map(_segment_from_json, content["segments"])),
    )


def _segment_from_json(content: Mapping[str, Any]) -> TranscriptSegment:
    values = {name: value for name, value in content.items() if name not in ("id", "words")}
    words = content.get("words")
    return TranscriptSegment(**values, words=None if words is None else tuple(TranscriptWord(**each) for each in words))


def describe_time(seconds: float, *, mark: str = ".", with_hours: bool = True) -> str:
    """Return a time such as 00:01:02.345.

    Args:
        seconds: Not negative.
        mark: Before the milliseconds.
        with_hours: Whether hours are given where there are none.
    """
    minutes, milliseconds = divmod(round(1000 * seconds), 60_000)
    hours, minutes = divmod(minutes, 60)
    front = f"{hours:02}:" if with_hours or hours else ""
    return f"{front}{minutes:02}:{milliseconds // 1000:02}{mark}{milliseconds % 1000:03}"


def _cues(transcript: Transcript, mark: str) -> Iterator[str]:
    for segment in transcript.segments:
        start, end = (describe_time(time, mark=mark) for time in (segment.start, segment.end))
        # The arrow separates times; within a text, players would take it for another cue.
        yield f"{start} --> {end}\n{segment.text.strip().replace('-->', '->')}\n"
