"""WebDataset: the text of an utterance is a txt or json member of the same tar."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from whisper_shard.dataset.foreign import Member
from whisper_shard.dataset.reader import suffix_of
from whisper_shard.tars.rows import FoundRow, place_text
from whisper_shard.tars.texts import (
    AUDIO_SUFFIXES,
    COMPRESSED_SUFFIXES,
    MAX_TEXT_BYTES,
    TEXT_SUFFIXES,
    check_audio,
    known_fields,
    reject,
    stem_of,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _TextMember:
    """A member that may hold a text."""

    member: Member
    suffix: str
    text: str | None = None
    record: dict[str, Any] | None = None
    fault: str | None = None


class MemberTexts:
    """Pairs audio and text members by name.

    Members belong together if their names differ in the suffix only. Where that finds no text, they belong together
    by the rule of WebDataset, for which a key ends at the first dot of the file's name: ``a.audio.wav`` and
    ``a.text.txt``; but only if the key has one audio member, and one text member of a kind.

    If there are both, txt is the text, and json says language, speaker and task.
    """

    def __init__(self, text_field: str) -> None:
        self.unread: Counter[str] = Counter()
        self._text_field = text_field
        self._audio: list[Member] = []
        self._texts: list[_TextMember] = []
        self._compressed: list[Member] = []

    def keeps(self, name: str, num_bytes: int) -> bool:
        """Return whether it is a text of a length that is read."""
        return suffix_of(name) in TEXT_SUFFIXES and num_bytes <= MAX_TEXT_BYTES

    def add(self, member: Member) -> None:
        """Sort a member by its suffix; parse a text."""
        suffix = suffix_of(member.name)
        if suffix in AUDIO_SUFFIXES:
            self._audio.append(member)
        elif suffix in TEXT_SUFFIXES:
            self._texts.append(self._parse(member, suffix))
        elif suffix in COMPRESSED_SUFFIXES:
            self._compressed.append(member)
        else:
            self.unread[suffix] += 1

    def rows(self) -> Iterator[FoundRow]:
        """Yield the utterances in order of their audio, then texts without audio and what is compressed."""
        by_stem, by_key = _Group.by(stem_of, self._audio, self._texts), _Group.by(_key_of, self._audio, self._texts)
        used = set[int]()
        for audio in self._audio:
            group = by_stem[stem_of(audio.name)]
            if not group.texts and by_key[_key_of(audio.name)].is_plain():
                group = by_key[_key_of(audio.name)]
            used.update(text.member.offset for text in group.texts)
            yield check_audio(self._describe(audio, group), audio)
        for text in self._texts:
            if text.member.offset not in used:
                yield reject({"name": text.member.name}, "no_audio", "no audio member has this name")
        for member in self._compressed:
            yield reject({"name": member.name}, "compressed", "members are read in place and not decompressed")

    def _parse(self, member: Member, suffix: str) -> _TextMember:
        parsed = _TextMember(member=replace(member, body=None), suffix=suffix)
        if member.body is None:
            return replace(parsed, fault=f"{member.name}: {member.num_bytes} bytes, limit {MAX_TEXT_BYTES}")
        try:
            if suffix == "txt":
                return replace(parsed, text=member.body.decode("utf-8-sig").rstrip("\r\n"))
            record = json.loads(member.body)
        except (ValueError, RecursionError) as error:
            return replace(parsed, fault=f"{member.name}: {error}")
        if not isinstance(record, dict):
            return parsed
        text = record.get(self._text_field)
        return replace(parsed, record=record, text=text if isinstance(text, str) else None)

    def _describe(self, audio: Member, group: "_Group") -> dict[str, Any]:
        """Return the fields of an utterance's row, with the reason if it cannot be used."""
        row: dict[str, Any] = {"name": audio.name}
        kinds = {text.suffix: text for text in group.texts}
        if len(group.audio) > 1:
            return row | _fault("several_audio", f"{len(group.audio)} audio members have this name")
        if len(kinds) < len(group.texts):
            return row | _fault("several_texts", "several text members of one kind have this name")
        if faults := [text.fault for text in group.texts if text.fault]:
            return row | _fault("bad_text", faults[0])
        row |= known_fields(kinds["json"].record or {}) if "json" in kinds else {}
        chosen = next((kinds[kind] for kind in ("txt", "json") if kind in kinds and kinds[kind].text is not None), None)
        if chosen is None:
            detail = f"its json member has no text in {self._text_field!r}" if kinds else "no txt or json member"
            return row | _fault("no_text", detail)
        return row | {"transcript": chosen.text, **place_text(chosen.member)}


class _Group:
    """The members that share a name, by one of the two rules."""

    def __init__(self) -> None:
        self.audio: list[Member] = []
        self.texts: list[_TextMember] = []

    @classmethod
    def by(cls, rule: Any, audio: list[Member], texts: list[_TextMember]) -> "defaultdict[str, _Group]":
        """Return the groups by name."""
        groups: defaultdict[str, _Group] = defaultdict(cls)
        for member in audio:
            groups[rule(member.name)].audio.append(member)
        for text in texts:
            groups[rule(text.member.name)].texts.append(text)
        return groups

    def is_plain(self) -> bool:
        """Return whether there is no question which text belongs to which audio."""
        return len(self.audio) == 1 and len({text.suffix for text in self.texts}) == len(self.texts)


def _fault(reason: str, detail: str) -> dict[str, str]:
    return {"reason": reason, "detail": detail}


def _key_of(name: str) -> str:
    """Return WebDataset's key of a member."""
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.partition(".")[0]
