"""Lhotse Shar: ``recording.000000.tar`` with audio, and ``cuts.000000.jsonl.gz`` beside it with the texts.

The audio of a cut is the member named by the cut's id. The json member behind it describes the recording and is not
needed; ``.nodata`` stands for a cut without audio.

Source: lhotse 1.33, lhotse/shar/writers/shar.py and lhotse/shar/writers/audio.py.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from whisper_shard.dataset.foreign import Member
from whisper_shard.dataset.reader import suffix_of
from whisper_shard.errors import ManifestError
from whisper_shard.tars.rows import FoundRow
from whisper_shard.tars.texts import (
    AUDIO_SUFFIXES,
    AudioMembers,
    as_seconds,
    optional_text,
    read_json_lines,
    stem_of,
)

RECORDING_FIELD = "recording"
"""Name of the tars with the audio of cuts; other fields (features, other recordings) lie in other tars."""
_CUTS = ("MonoCut", "MultiCut")
_WITHOUT_AUDIO = frozenset({"json", "nodata", "nometa"})


class SharTexts:
    """The cuts that belong to a tar."""

    def __init__(self, path: Path) -> None:
        self.unread: Counter[str] = Counter()
        self._path = path
        self._audio = AudioMembers.empty()

    def keeps(self, name: str, num_bytes: int) -> bool:  # noqa: ARG002 - of every source
        """Return False: no body is needed."""
        return False

    def add(self, member: Member) -> None:
        """Take note of an audio member."""
        if (suffix := suffix_of(member.name)) in AUDIO_SUFFIXES:
            self._audio.add(stem_of(member.name), member)
        elif suffix not in _WITHOUT_AUDIO:
            self.unread[suffix] += 1

    def rows(self) -> Iterator[FoundRow]:
        """Yield the cuts in the order of their audio in the tar, then members without a cut."""
        found = [self._attach(cut, number) for number, cut in read_json_lines(self._path)]
        yield from sorted(found, key=lambda row: row.audio_offset)
        yield from self._audio.without_text()

    def _attach(self, cut: dict[str, Any], number: int) -> FoundRow:
        name = cut.get("id")
        if not isinstance(name, str):
            raise ManifestError(f"{self._path}: line {number} has no id; are these the cuts of Lhotse Shar?")
        return self._audio.attach({"name": name, **_describe(cut)}, name)


def find_cuts(tar: Path) -> Path | None:
    """Return the file of cuts beside a tar of recordings, or None where there is none."""
    field, dot, rest = tar.name.partition(".")
    if field != RECORDING_FIELD:
        return None
    stem = "cuts" + dot + rest.removesuffix("tar")
    return next((path for end in ("jsonl.gz", "jsonl") if (path := tar.with_name(stem + end)).is_file()), None)


def _describe(cut: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a cut's row, with the reason if it cannot be used.

    A cut with several supervisions has the texts of all, in order of time.
    """
    if (kind := cut.get("type", "MonoCut")) not in _CUTS:
        return {"reason": "unsupported_cut", "detail": f"a cut of type {kind!r}; known are {' and '.join(_CUTS)}"}
    start, seconds = as_seconds(cut.get("start", 0.0)), as_seconds(cut.get("duration"))
    supervisions = cut.get("supervisions")
    if start is None or seconds is None or not isinstance(supervisions, list):
        return {"reason": "bad_segment", "detail": f"start {cut.get('start')!r}, duration {cut.get('duration')!r}"}
    row: dict[str, Any] = {"start_seconds": start, "seconds": seconds}
    spoken = sorted((s for s in supervisions if isinstance(s, dict)), key=_start_of)
    texts = [s["text"] for s in spoken if isinstance(s.get("text"), str)]
    if not texts or len(texts) < len(supervisions):
        return row | {"reason": "no_text", "detail": f"{len(texts)} of {len(supervisions)} supervisions have a text"}
    return row | {
        "transcript": " ".join(texts),
        "language": _common([optional_text(s, "language") for s in spoken]),
        "speaker": _common([optional_text(s, "speaker") for s in spoken]),
    }


def _start_of(supervision: dict[str, Any]) -> float:
    """Return where a supervision begins, which is before the cut if that was cut out of its middle."""
    start = supervision.get("start")
    return float(start) if isinstance(start, int | float) else 0.0


def _common(values: list[str | None]) -> str | None:
    """Return the value that all supervisions share, or None."""
    return values[0] if len(set(values)) == 1 else None
