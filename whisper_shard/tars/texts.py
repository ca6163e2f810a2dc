"""Where the texts of a tar come from: its own members, or the lines of a manifest beside it.

Each source is told of every member of the tar in order, and then gives its utterances. It gives a row for everything
that might have been one: a member or a line without its counterpart becomes a row with a reason.
"""

import gzip
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from whisper_shard.dataset.foreign import Member
from whisper_shard.dataset.reader import suffix_of
from whisper_shard.errors import ManifestError
from whisper_shard.storage.atomic import is_environment_error
from whisper_shard.tars.rows import FoundRow, place_audio

AUDIO_SUFFIXES = frozenset({"wav", "flac", "mp3", "ogg", "opus", "m4a", "npy"})
"""Suffixes of members that are decoded."""
TEXT_SUFFIXES = frozenset({"txt", "json"})
"""Suffixes of members that hold a text."""
COMPRESSED_SUFFIXES = frozenset({"gz", "tgz", "bz2", "xz", "zst", "lz4", "zip"})
"""Suffixes of members that would have to be decompressed."""
MAX_AUDIO_BYTES = 1 << 30
"""Longest audio member that is decoded: with the samples, it must fit into the memory of a worker."""
MAX_TEXT_BYTES = 1 << 20
"""Longest text member that is read."""
MAX_LINE_BYTES = 16 << 20
"""Longest line of a manifest that is read."""


class Texts(Protocol):
    """The utterances of one tar."""

    unread: Counter[str]
    """Members that are not read, by suffix."""

    def keeps(self, name: str, num_bytes: int) -> bool:
        """Return whether the body of a member is needed."""
        ...

    def add(self, member: Member) -> None:
        """Take note of a member."""
        ...

    def rows(self) -> Iterator[FoundRow]:
        """Yield the utterances, after all members, in the order of their audio."""
        ...


@dataclass(slots=True)
class AudioMembers:
    """The audio members of a tar, by the name under which a manifest may speak of them."""

    by_name: dict[str, list[Member]]
    """Members of each name; more than one of a name is a fault."""
    used: set[str]
    """Names that a manifest has spoken of."""

    @classmethod
    def empty(cls) -> "AudioMembers":
        """Return none."""
        return cls({}, set())

    def add(self, name: str, member: Member) -> None:
        """Add a member."""
        self.by_name.setdefault(name, []).append(member)

    def attach(self, row: dict[str, Any], name: str) -> FoundRow:
        """Return the row of a manifest's line, with the place of its audio, or with the reason why it has none."""
        members = self.by_name.get(name, [])
        self.used.add(name)
        if not members:
            return reject(row, "missing_member", "the manifest names it, but it is not in the tar")
        if len(members) > 1:
            return reject(row, "several_audio", f"{len(members)} audio members have this name")
        return check_audio(row | {"name": members[0].name}, members[0])

    def without_text(self) -> Iterator[FoundRow]:
        """Yield a row for each member that the manifest has not spoken of."""
        for name, members in self.by_name.items():
            if name not in self.used:
                yield from (reject({"name": m.name}, "no_text", "the manifest does not name it") for m in members)


def reject(row: Mapping[str, Any], reason: str, detail: str) -> FoundRow:
    """Return a row that cannot be used."""
    return FoundRow(**{**row, "reason": reason, "detail": detail})


def check_audio(row: Mapping[str, Any], member: Member) -> FoundRow:
    """Return a row with the place of its audio, rejected where that is too large or empty; a reason it has stays."""
    placed = {**row, **place_audio(member)}
    if not row.get("reason") and member.num_bytes > MAX_AUDIO_BYTES:
        return reject(placed, "member_too_large", f"{member.num_bytes} bytes, limit {MAX_AUDIO_BYTES}")
    if not row.get("reason") and not member.num_bytes:
        return reject(placed, "empty_file", "the member is empty")
    return FoundRow(**placed)


def stem_of(name: str) -> str:
    """Return a member's name without its suffix."""
    suffix = suffix_of(name)
    return name[: -len(suffix) - 1] if suffix else name


def optional_text(record: Mapping[str, Any], *names: str) -> str | None:
    """Return the first of some fields that holds a text; None if none does."""
    return next((value for name in names if isinstance(value := record.get(name), str) and value), None)


def known_fields(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return language, speaker and task of a json member or a manifest's line, where it has them."""
    task = optional_text(record, "task")
    return {
        "language": optional_text(record, "language", "lang"),
        "speaker": optional_text(record, "speaker", "speaker_id"),
        "task": task if task in ("transcribe", "translate") else None,
    }


def as_seconds(value: object) -> float | None:
    """Return a number of seconds, 0 or more; None if it is none."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) and value >= 0 else None  # type: ignore[arg-type, operator]


def read_json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield number, from 1, and content of each line of a file of JSON objects, which may be compressed with gzip.

    Raises:
        ManifestError: It cannot be read, or a line is too long or not a JSON object.
    """
    try:
        with path.open("rb") as raw:
            is_compressed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            with gzip.open(raw) if is_compressed else raw as file:
                number = 0
                while line := file.readline(MAX_LINE_BYTES):
                    number += 1
                    if line.strip():
                        yield number, _parse_line(line, path, number)
    except (OSError, EOFError) as error:
        if is_environment_error(error) and not isinstance(error, gzip.BadGzipFile):
            raise
        raise ManifestError(f"{path}: cannot be read: {error}") from error


def _parse_line(line: bytes, path: Path, number: int) -> dict[str, Any]:
    if len(line) == MAX_LINE_BYTES:
        raise ManifestError(
            f"{path}: line {number} has more than {MAX_LINE_BYTES} bytes; is this a file of JSON lines?"
        )
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"{path}: line {number} is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise ManifestError(f"{path}: line {number} is not a JSON object but {type(value).__name__}")
    return value
