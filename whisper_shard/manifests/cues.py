"""Texts with times, as SRT, WebVTT, TextGrid and CTM files hold them.

Formatting is removed: tags, ``{\\an8}``, notes, the dashes and ``>>`` at which another speaker begins. So are
descriptions in square brackets and notes of music, which nobody says. HTML entities become characters.

Sources: https://www.w3.org/TR/webvtt1, https://www.fon.hum.uva.nl/praat/manual/TextGrid_file_formats.html,
https://github.com/usnistgov/SCTK/blob/master/doc/infmts.htm (CTM)
"""

import html
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.errors import ManifestError
from whisper_shard.manifests.encoding import decode_head, find_encoding, open_text, read_head

PHRASE_PAUSE_SECONDS = 0.5
"""Words with a pause of at least so long between them belong to different phrases."""
PHRASE_SECONDS = 10.0
"""Longer phrases are divided at the longest of their pauses."""
MAX_FILE_CHARS = 1 << 27
"""Longest subtitle file that is read."""
TIERS = (
    "utterances", "utterance", "sentences", "sentence", "phrases", "phrase", "transcript", "transcription", "text",
    "words", "word",
)  # fmt: skip
"""Names of the tier of a TextGrid with the transcript, in order of preference."""
_LINE_ENDS = re.compile(r"\r\n?|\n")
_TIMES = re.compile(
    r"\s*(-?(?:\d{1,6}:)?\d{1,2}:\d{1,2}(?:[.,]\d{1,3})?)\s*-->\s*(-?(?:\d{1,6}:)?\d{1,2}:\d{1,2}(?:[.,]\d{1,3})?)(?:\s|$)"
)
# Lengths are limited, so that a line of many opening brackets takes linear time.
_FORMATTING = re.compile(r"</?[a-zA-Z][^<>]{0,500}>|<\d[\d:.]{0,20}>|\{(?:\\|[a-zA-Z]:)[^{}]{0,500}\}")
_INLINE_TIME = re.compile(r"<\d[\d:.]{4,20}>")
_UNSPOKEN = re.compile(r"\[[^\[\]]{0,500}\]|[\u266a-\u266c#]?[\u266a-\u266c]")
_TURN = re.compile(r"^\s*(?:>>+|[-\u2010-\u2015](?=\s*[^\W\d_]))\s*")
_FREE_STANDING = re.compile(r'"((?:[^"]|"")*)"|(<\w+>)|(?<!\S)(-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)(?!\S)')
_NO_WORD = re.compile(r"<[^<>]*>|\[[^\[\]]*\]|sil|sp|spn|")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cue:
    """A text and when it is said."""

    start_seconds: float
    """Where it begins in the recording."""
    end_seconds: float
    """Where it ends."""
    text: str
    """What is said."""
    fault: str = ""
    """Why it cannot be used, with its line; empty: it can."""


@dataclass(frozen=True, slots=True)
class TimedText:
    """The cues of a file."""

    cues: Sequence[Cue]
    """As they lie in the file."""
    note: str = ""
    """What was assumed: an encoding."""


def read_cues(path: Path, config: PrepareConfig) -> TimedText:
    """Read a file of subtitles, or a TextGrid.

    Args:
        path: Its suffix says which format it has.
        config: Settings: encoding, and ``text_column`` for the tier of a TextGrid.

    Raises:
        ManifestError: It cannot be read, or holds no cue.
    """
    try:
        encoding, notes = find_encoding(path, read_head(path), config)
        with open_text(path, encoding) as file:
            text = file.read(MAX_FILE_CHARS)
    except (OSError, EOFError, UnicodeError) as error:
        raise ManifestError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if len(text) == MAX_FILE_CHARS:
        raise ManifestError(f"{path}: is too long for subtitles: more than {MAX_FILE_CHARS:,} characters")
    try:
        cues = list(PARSERS[path.suffix.lower()](text.removeprefix("\ufeff"), config))
    except ValueError as error:
        raise ManifestError(f"{path}: {error}") from error
    if not cues:
        raise ManifestError(f"{path}: holds no cue, as {path.suffix[1:].upper()} files have them")
    return TimedText(cues, notes[0] if notes else "")


def looks_like_cues(path: Path, config: PrepareConfig) -> bool:
    """Return whether a file holds what its suffix says, by its first bytes."""
    try:
        head = read_head(path)
        text = decode_head(head, find_encoding(path, head, config)[0])
    except (OSError, ManifestError):
        return False
    return {".textgrid": "TextGrid" in text or "ooTextFile" in text}.get(path.suffix.lower(), "-->" in text)


def parse_srt(text: str, _config: PrepareConfig) -> Iterator[Cue]:
    """Yield the cues of SRT. An empty line does not end a cue, since texts hold some; the next times do."""
    lines = _LINE_ENDS.split(text)
    places = [number for number, line in enumerate(lines) if "-->" in line]
    for place, end in pairwise([*places, len(lines)] if places else []):
        body = lines[place + 1 : end]
        while body and not body[-1].strip():
            body.pop()
        if end < len(lines) and body and body[-1].strip().isdecimal():
            body.pop()  # the number of the next cue
        untimed = _find_untimed(lines[place - 1] if place else "", body)
        yield _make_cue(lines[place], place + 1, body[:untimed])
        if untimed < len(body):
            number = place + untimed + 2
            fault = f"line {number} is the number of a cue, but no times follow"
            yield Cue(start_seconds=0, end_seconds=0, text=_join_lines(body[untimed + 1 :]), fault=fault)


def parse_vtt(text: str, _config: PrepareConfig) -> Iterator[Cue]:
    """Yield the cues of WebVTT; of rolling captions, which repeat what they showed before, only what is new."""
    is_rolling, shown = _INLINE_TIME.search(text) is not None, list[str]()
    lines = _LINE_ENDS.split(text)
    places = [number for number, line in enumerate(lines) if "-->" in line]
    for place in places:
        later = range(place + 1, len(lines))
        end = next((number for number in later if not lines[number] or "-->" in lines[number]), len(lines))
        body = lines[place + 1 : end]
        if is_rolling:
            plain = [line for line in map(clean_line, body) if line]
            body, shown = plain[_repeated(shown, plain) :], plain or shown
            if not body:
                continue
        yield _make_cue(lines[place], place + 1, body)


def parse_textgrid(text: str, config: PrepareConfig) -> Iterator[Cue]:
    """Yield the intervals with a text of one tier.

    Raises:
        ValueError: It is damaged, or does not say which tier holds the transcript.
    """
    tiers = _read_tiers(text)
    names = [name for name, _ in tiers]
    name = _choose_tier(names, config.text_column)
    if names.count(name) > 1:
        raise ValueError(f"has {names.count(name)} tiers called {name!r}; give each a name of its own, in Praat")
    found = (cue for cue in tiers[names.index(name)][1] if not _NO_WORD.fullmatch(cue.text))
    yield from join_words(found) if name.lower().endswith(("word", "words")) else found


def parse_ctm(text: str, _config: PrepareConfig) -> Iterator[Cue]:
    """Yield the phrases of CTM, whatever recording it names.

    Raises:
        ValueError: A line has no times.
    """
    lines = enumerate(_LINE_ENDS.split(text), 1)
    words = [read_ctm_line(line, number)[1] for number, line in lines if line.strip() and not line.startswith(";;")]
    yield from join_words(word for word in words if not _NO_WORD.fullmatch(word.text))


def read_ctm_line(line: str, number: int) -> tuple[tuple[str, str], Cue]:
    """Return recording and channel of a line of CTM, and its word.

    Raises:
        ValueError: It has no times.
    """
    fields = line.split()
    try:
        start, seconds = float(fields[2]), float(fields[3])
        return (fields[0], fields[1]), Cue(start_seconds=start, end_seconds=start + seconds, text=fields[4])
    except (ValueError, IndexError):
        raise ValueError(f"line {number} is not recording, channel, start, duration, word: {line[:60]!r}") from None


def join_words(words: Iterable[Cue]) -> Iterator[Cue]:
    """Yield phrases: words between pauses, divided further where they are long."""
    phrase = list[Cue]()
    for word in words:
        if phrase and word.start_seconds - phrase[-1].end_seconds >= PHRASE_PAUSE_SECONDS:
            yield from _divide(phrase)
            phrase = []
        phrase.append(word)
    yield from _divide(phrase)


def clean_line(line: str) -> str:
    """Return what is said in a line of subtitles."""
    text = html.unescape(_FORMATTING.sub("", line)).replace("\\N", " ").replace("\\h", " ")
    return " ".join(_TURN.sub("", _UNSPOKEN.sub(" ", text)).split())


def _make_cue(times: str, number: int, body: Sequence[str]) -> Cue:
    found = _TIMES.match(times)
    text = _join_lines(body)
    if found is None:
        return Cue(start_seconds=0, end_seconds=0, text=text, fault=f"line {number} is not two times: {times[:60]!r}")
    start, end = map(_read_time, found.groups())
    return Cue(start_seconds=start, end_seconds=end, text=text)


def _join_lines(body: Sequence[str]) -> str:
    return " ".join(line for line in map(clean_line, body) if line)


def _find_untimed(number: str, body: Sequence[str]) -> int:
    """Return where, in the text of a cue of SRT, the next cue begins without its times; else the length of the text.

    Args:
        number: The line before the times of the cue.
        body: The lines of its text.
    """
    if not number.strip().isdecimal():
        return len(body)
    wanted = str(int(number) + 1)
    places = (i for i in range(1, len(body)) if not body[i - 1].strip() and body[i].strip() == wanted)
    return next(places, len(body))


def _read_time(text: str) -> float:
    sign = -1.0 if text.startswith("-") else 1.0
    parts = text.lstrip("-").replace(",", ".").split(":")
    return sign * float(sum(float(part) * 60.0**place for place, part in enumerate(reversed(parts))))


def _repeated(shown: Sequence[str], lines: Sequence[str]) -> int:
    """Return how many lines at the beginning were shown at the end of the cue before."""
    return max(
        count
        for count in range(min(len(shown), len(lines)) + 1)
        if list(lines[:count]) == list(shown)[len(shown) - count :]
    )


def _divide(words: Sequence[Cue]) -> Iterator[Cue]:
    """Yield the words as one cue, or if they are too long as several, divided at the longest pause again and again."""
    waiting = [words] if words else []
    while waiting:
        part = waiting.pop()
        if part[-1].end_seconds - part[0].start_seconds <= PHRASE_SECONDS or len(part) == 1:
            text = " ".join(word.text for word in part)
            yield Cue(start_seconds=part[0].start_seconds, end_seconds=part[-1].end_seconds, text=text)
            continue
        pauses = [after.start_seconds - before.end_seconds for before, after in pairwise(part)]
        # Of pauses that are equally long the one nearest to the middle, so that continuous speech is halved.
        cut = max(range(len(pauses)), key=lambda i: (pauses[i], -abs(2 * i - len(pauses))))
        waiting += [part[cut + 1 :], part[: cut + 1]]


def _read_tiers(text: str) -> list[tuple[str, list[Cue]]]:
    """Return the interval tiers of a TextGrid, long or short, which differ in what does not stand free."""
    values = _GridValues(_FREE_STANDING.finditer(text))
    if "ooTextFile" not in text[:200]:
        raise ValueError("is not a TextGrid in text form; save it as text in Praat")
    try:
        values.skip(5)  # its kind, its times, and whether there are tiers
        tiers = list[tuple[str, list[Cue]]]()
        for _ in range(int(values.number())):
            kind, name = values.text(), values.text()
            values.skip(2)
            size = int(values.number())
            if kind == "IntervalTier":
                cues = [
                    Cue(start_seconds=values.number(), end_seconds=values.number(), text=values.text())
                    for _ in range(size)
                ]
                tiers.append((name, cues))
            else:
                values.skip(2 * size)
    except StopIteration:
        raise ValueError("is a TextGrid that ends too early") from None
    return tiers


@dataclass(frozen=True, slots=True)
class _GridValues:
    """What stands free in a TextGrid, one after the other."""

    found: Iterator[re.Match[str]]

    def skip(self, count: int) -> None:
        for _ in range(count):
            next(self.found)

    def number(self) -> float:
        return float(self._take(3, "a number"))

    def text(self) -> str:
        return " ".join(self._take(1, "a text").replace('""', '"').split())

    def _take(self, group: int, kind: str) -> str:
        match = next(self.found)
        value: str | None = match[group]
        if value is None:
            raise ValueError(f"is a damaged TextGrid: {match[0][:40]!r} stands where {kind} should")
        return value


def _choose_tier(names: Sequence[str], wanted: str) -> str:
    if wanted in names:
        return wanted
    spoken = [name for name in dict.fromkeys(names) if not name.lower().endswith(("phones", "phone", "phonemes"))]
    known = [name for word in TIERS for name in spoken if name.lower() == word]
    if wanted or not (known or len(spoken) == 1):
        raise ValueError(
            f"has no tier {wanted!r}"
            if wanted
            else "does not say which tier is the transcript"
            f"; name one with --text-column: {', '.join(map(repr, names)) or 'it has no interval tier'}"
        )
    return (known or spoken)[0]


PARSERS: Mapping[str, Callable[[str, PrepareConfig], Iterator[Cue]]] = {
    ".srt": parse_srt,
    ".vtt": parse_vtt,
    ".textgrid": parse_textgrid,
    ".ctm": parse_ctm,
}
"""What reads a file, by its suffix in lower case."""
