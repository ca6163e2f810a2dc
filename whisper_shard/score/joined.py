"""Long recordings made of the utterances of a dataset, so that it is known what is said in them, and when.

Utterances of one language follow each other in the order of the evaluation's fixed shuffle. Between them, and at both
ends, is a pause of white noise, as loud as the quietest tenth of the quieter utterance beside it: zeros would be a
silence that no room has, and the quietest stretches of short utterances are too short to fill a pause.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice

import numpy as np

from whisper_shard.audio.samples import to_float32
from whisper_shard.dataset.index import Dataset
from whisper_shard.dataset.reader import UtteranceReader, decode_audio, decode_json, open_reader
from whisper_shard.dataset.sources.open import open_source
from whisper_shard.errors import DatasetError
from whisper_shard.keyed_random import draw_permutation, draw_uniform
from whisper_shard.prepare.quality import measure_noise
from whisper_shard.text.languages import whisper_language
from whisper_shard.utterance import SAMPLE_RATE, Waveform

PAUSE_SECONDS = 0.5
"""Length of each pause."""
PAUSE = (
    f"{PAUSE_SECONDS:g} s of white noise, as loud as the quietest tenth of the quieter utterance beside it; places of "
    "utterances are those of their audio, silence at its ends included"
)
"""What lies between utterances, in words."""
_PAUSE_SAMPLES = round(PAUSE_SECONDS * SAMPLE_RATE)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedUtterance:
    """An utterance in a long recording."""

    key: str
    """Its key in the dataset."""
    text: str
    """What is said."""
    start: float
    """Where its audio begins in the recording, in seconds."""
    end: float
    """Where its audio ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinedRecording:
    """A long recording."""

    name: str
    """Unique among those of a dataset; also what random numbers of its decoding are keyed by."""
    language: str
    """Whisper's code of what is spoken in it."""
    waveform: Waveform
    """Mono, 16 kHz, with pauses at both ends."""
    utterances: tuple[PlacedUtterance, ...]
    """In their order."""

    @property
    def seconds(self) -> float:
        """Length."""
        return len(self.waveform) / SAMPLE_RATE


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinRules:
    """How long and how many recordings become."""

    minutes: float
    """Length of a recording; only one that holds a single utterance may be longer."""
    most: int
    """Recordings at most, taken from the languages in turn."""
    limit: int = 0
    """Only this many utterances, the first of the shuffle; 0: all."""
    language: str = "en"
    """Where the data has none."""


def join_utterances(data: Dataset, rules: JoinRules) -> tuple[list[JoinedRecording], tuple[str, ...]]:
    """Return recordings, and notes about what is not in them.

    Utterances without a text, and those that are to be translated, are left out. Of a language, what is left for a
    last recording of less than half the length is used only if there is no other.

    Raises:
        DatasetError: An utterance is damaged, or there is none to join.
    """
    order = draw_permutation(data.num_utterances, "evaluation")[: rules.limit or None]
    codes = data.codes("language")[order]
    left_out: Counter[str] = Counter()
    with closing(open_reader(data, open_source(data))) as reader:
        makers = [
            _join_rows(_read_parts(reader, order[codes == code].tolist(), rules, left_out), rules)
            for code in dict.fromkeys(codes.tolist())
        ]
        joined = list(islice(_take_in_turn(makers), rules.most))
    if not joined:
        raise DatasetError(
            f"{data.location}: none of {len(order):,} utterances has a text and the task transcribe: there is nothing "
            "to join for --probe"
        )
    recordings = [
        _lay_out(f"recording-{number:03d}", language, parts) for number, (language, parts) in enumerate(joined)
    ]
    notes = [f"{count:,} utterances {what} were left out" for what, count in left_out.items()]
    if missing := len(makers) - len({recording.language for recording in recordings}):
        notes.append(f"{missing} languages of the data are in no recording: raise --probe-recordings")
    return recordings, tuple(notes)


@dataclass(frozen=True, slots=True)
class _Part:
    key: str
    text: str
    waveform: Waveform
    noise: float


_Parts = tuple[str, Sequence[_Part]]


def _read_parts(
    reader: UtteranceReader, rows: Sequence[int], rules: JoinRules, left_out: Counter[str]
) -> Iterator[tuple[str, _Part]]:
    """Yield language and utterance of rows that can be used; count the others."""
    for row in rows:
        raw = reader.read(row)
        record = decode_json(raw)
        if not record["text"].strip():
            left_out["without a text"] += 1
        elif (record.get("task") or "transcribe") != "transcribe":
            left_out["of another task than transcribe"] += 1
        else:
            waveform = np.array(to_float32(decode_audio(raw)))
            part = _Part(raw.key, record["text"], waveform, measure_noise(waveform))
            yield whisper_language(record.get("language") or rules.language), part


def _join_rows(found: Iterable[tuple[str, _Part]], rules: JoinRules) -> Iterator[_Parts]:
    """Yield language and utterances of each recording of one language."""
    most = round(rules.minutes * 60 * SAMPLE_RATE)
    language, parts, length, num_done = "", list[_Part](), _PAUSE_SAMPLES, 0
    for language, part in found:
        more = len(part.waveform) + _PAUSE_SAMPLES
        if parts and length + more > most:
            yield language, parts
            parts, length, num_done = [], _PAUSE_SAMPLES, num_done + 1
        parts.append(part)
        length += more
    if parts and (not num_done or length >= most / 2):
        yield language, parts


def _take_in_turn(makers: Sequence[Iterator[_Parts]]) -> Iterator[_Parts]:
    waiting = list(makers)
    while waiting:
        for maker in list(waiting):
            if (found := next(maker, None)) is None:
                waiting.remove(maker)
            else:
                yield found


def _lay_out(name: str, language: str, parts: Sequence[_Part]) -> JoinedRecording:
    """Put pauses and utterances one behind the other."""
    pieces: list[Waveform] = []
    placed: list[PlacedUtterance] = []
    position = 0
    levels = [part.noise for part in parts]
    for number, part in enumerate(parts):
        pieces += [_make_pause(min(levels[max(number - 1, 0) : number + 1]), name, number), part.waveform]
        start = position + _PAUSE_SAMPLES
        position = start + len(part.waveform)
        placed.append(
            PlacedUtterance(key=part.key, text=part.text, start=start / SAMPLE_RATE, end=position / SAMPLE_RATE)
        )
    pieces.append(_make_pause(levels[-1], name, len(parts)))
    return JoinedRecording(name=name, language=language, waveform=np.concatenate(pieces), utterances=tuple(placed))


def _make_pause(level: float, name: str, number: int) -> Waveform:
    """Return white noise with a root mean square of ``level``."""
    draws = 2.0 * draw_uniform(_PAUSE_SAMPLES, "probe pause", name, number) - 1.0  # its mean square is a third
    noise: Waveform = (3.0**0.5 * level * draws).astype(np.float32)
    return noise
