"""NeMo's tarred datasets: tars of audio, and manifests of JSON lines with the texts.

A line names its member in ``audio_filepath``. Several lines may share one member: they are its segments, given by
``offset`` and ``duration`` in seconds, and all names but the first end in ``-sub1``, ``-sub2`` ... before the suffix.

Source: NVIDIA NeMo, docs/source/asr/datasets.rst, "Tarred Datasets";
scripts/speech_recognition/convert_to_tarred_audio_dataset.py.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from whisper_shard.dataset.foreign import Member
from whisper_shard.dataset.reader import suffix_of
from whisper_shard.errors import ManifestError
from whisper_shard.storage.atomic import as_environment_fault
from whisper_shard.tars.rows import FoundRow
from whisper_shard.tars.texts import (
    AUDIO_SUFFIXES,
    AudioMembers,
    as_seconds,
    known_fields,
    read_json_lines,
)

SPLIT_BYTES = 64 << 20
"""Bytes of lines that wait in memory while a manifest is split."""
_SEGMENT = re.compile(r"(.+)-sub\d+(\.\w+)?")


class NemoTexts:
    """The lines of one manifest that belong to a tar."""

    def __init__(self, path: Path, text_field: str) -> None:
        self.unread: Counter[str] = Counter()
        self._path = path
        self._text_field = text_field
        self._audio = AudioMembers.empty()

    def keeps(self, name: str, num_bytes: int) -> bool:  # noqa: ARG002 - of every source
        """Return False: no body is needed."""
        return False

    def add(self, member: Member) -> None:
        """Take note of an audio member."""
        if (suffix := suffix_of(member.name)) in AUDIO_SUFFIXES:
            self._audio.add(_plain(member.name), member)
        else:
            self.unread[suffix] += 1

    def rows(self) -> Iterator[FoundRow]:
        """Yield the lines in the order of their audio in the tar, then members without a line."""
        found = [self._attach(line, number) for number, line in read_json_lines(self._path)]
        yield from sorted(found, key=lambda row: (row.audio_offset, row.start_seconds or 0.0))
        yield from self._audio.without_text()

    def _attach(self, line: dict[str, Any], number: int) -> FoundRow:
        name = line.get("audio_filepath")
        if not isinstance(name, str):
            raise ManifestError(f"{self._path}: line {number} has no audio_filepath; is this a NeMo manifest?")
        row = {"name": name, **self._describe(line)}
        member = _plain(name)
        if member not in self._audio.by_name and (segment := _SEGMENT.fullmatch(member)):
            member = segment[1] + (segment[2] or "")
        return self._audio.attach(row, member)

    def _describe(self, line: dict[str, Any]) -> dict[str, Any]:
        """Return the fields of a line's row, with the reason if it cannot be used."""
        text = line.get(self._text_field)
        start, seconds = as_seconds(line.get("offset") or 0.0), as_seconds(line.get("duration") or 0.0)
        row = known_fields(line) | {"start_seconds": start, "seconds": seconds or None}
        source, target = line.get("source_lang"), line.get("target_lang")
        if source and target and source != target:
            # Canary's manifests hold translations into many languages. Whisper translates into English only.
            row |= {"language": str(source), "task": "translate"}
            if target != "en":
                return _rejected(row, "unsupported_task", f"translation from {source} to {target}")
        elif row["language"] is None and isinstance(source, str):
            row["language"] = source
        if not isinstance(text, str):
            return _rejected(row, "no_text", f"the line has no text in {self._text_field!r}")
        if start is None or seconds is None:
            return _rejected(row, "bad_segment", f"offset {line.get('offset')!r}, duration {line.get('duration')!r}")
        return row | {"transcript": text}


def _rejected(row: dict[str, Any], reason: str, detail: str) -> dict[str, Any]:
    return row | {"reason": reason, "detail": detail}


def _plain(name: str) -> str:
    return name.removeprefix("./")


def split_manifest(path: Path, folder: Path) -> dict[int, Path]:
    """Split a manifest of many tars into one file for each ``shard_id``.

    Args:
        path: The manifest.
        folder: Where the parts go; exists.

    Returns:
        The parts by ``shard_id``.

    Raises:
        ManifestError: A line has no ``shard_id``.
        EnvironmentFault: A part cannot be written.
    """
    parts, waiting, num_bytes = dict[int, Path](), dict[int, list[bytes]](), 0
    for number, line in read_json_lines(path):
        shard = line.get("shard_id")
        if not isinstance(shard, int) or shard < 0:
            raise ManifestError(
                f"{path}: line {number} has the shard_id {shard!r}; with several tars, a manifest needs the number of "
                "the tar in each line, or give one manifest for each tar"
            )
        parts.setdefault(shard, folder / f"manifest-{shard:06d}.jsonl")
        waiting.setdefault(shard, []).append(json.dumps(line).encode())
        num_bytes += len(waiting[shard][-1])
        if num_bytes > SPLIT_BYTES:
            _append(waiting, parts)
            num_bytes = 0
    _append(waiting, parts)
    return parts


def _append(waiting: dict[int, list[bytes]], parts: dict[int, Path]) -> None:
    """Write out the lines that wait: few writes, and no file for each tar held open."""
    for shard, lines in waiting.items():
        try:
            with parts[shard].open("ab") as file:
                file.write(b"\n".join((*lines, b"")))
        except OSError as error:
            raise as_environment_fault(error, parts[shard]) from error
    waiting.clear()
