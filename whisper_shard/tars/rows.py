"""Utterances as they are found in a tar, before they are decoded: a table with one row each."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any, get_args

import pyarrow as pa

from whisper_shard.dataset.foreign import Member
from whisper_shard.dataset.schema import Int64, OptionalText, Text
from whisper_shard.utterance import ManifestRow

OptionalSeconds = Annotated[float | None, pa.float64()]
"""A column of seconds that may be null."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundRow:
    """An utterance that a tar, or the manifest of its texts, says there is."""

    row: Int64 = 0
    """Position among all utterances of all tars; counted from the first of the tar until all tars have been read."""
    name: Text
    """Name of the audio member, or of whatever was found instead."""
    transcript: Text = ""
    """Its text as written."""
    language: OptionalText = None
    """BCP-47 tag, where known."""
    speaker: OptionalText = None
    """Speaker, where known."""
    task: OptionalText = None
    """``transcribe`` or ``translate``, where known."""
    audio_offset: Int64 = 0
    """Byte at which the body of the audio member begins."""
    audio_bytes: Int64 = 0
    """Its length."""
    audio_crc32: Int64 = 0
    """Its checksum."""
    json_offset: Int64 = 0
    """Byte at which the body of the text member begins; 0 where the text comes from elsewhere."""
    json_bytes: Int64 = 0
    """Its length."""
    json_crc32: Int64 = 0
    """Its checksum."""
    start_seconds: OptionalSeconds = None
    """Where the utterance begins in the audio; None: at its beginning."""
    seconds: OptionalSeconds = None
    """Its length; None: up to the end of the audio."""
    reason: OptionalText = None
    """Why it cannot be used, where that is known already."""
    detail: Text = ""
    """The values behind the reason."""

    def as_manifest_row(self, tar: str) -> ManifestRow:
        """Return it as a row of a manifest whose path names the tar and the member."""
        return ManifestRow(
            row=self.row,
            source=self.name,
            path=f"{tar}/{self.name}",
            transcript=self.transcript,
            language=self.language,
            speaker=self.speaker,
            task=self.task,
        )


_NULLABLE = (OptionalText, OptionalSeconds)
FOUND_SCHEMA = pa.schema(
    [pa.field(f.name, get_args(f.type)[1], nullable=f.type in _NULLABLE) for f in fields(FoundRow)]
)
"""The columns of a table of rows."""


def place_audio(member: Member) -> dict[str, int]:
    """Return the fields that say where the audio lies."""
    return {"audio_offset": member.offset, "audio_bytes": member.num_bytes, "audio_crc32": member.crc32}


def place_text(member: Member) -> dict[str, int]:
    """Return the fields that say where the text lies; an empty member lies nowhere."""
    if not member.num_bytes:
        return {}
    return {"json_offset": member.offset, "json_bytes": member.num_bytes, "json_crc32": member.crc32}


def found_table(rows: Sequence[FoundRow]) -> pa.Table:
    """Return rows as a table in FOUND_SCHEMA; one with a text that cannot be stored is rejected."""
    return pa.Table.from_pylist([_without_halves(asdict(row)) for row in rows], schema=FOUND_SCHEMA)


def _without_halves(row: dict[str, Any]) -> dict[str, Any]:
    r"""Return a row without halves of surrogate pairs, which JSON can spell (``"\ud800"``) and UTF-8 cannot encode."""
    changed = {
        name: found
        for name, value in row.items()
        if isinstance(value, str) and (found := value.encode(errors="backslashreplace").decode()) != value
    }
    if changed and row["reason"] is None:
        changed |= {"reason": "bad_text", "detail": f"{next(iter(changed))} holds half a surrogate pair"}
    return row | changed


def as_found_rows(table: pa.Table) -> Iterator[FoundRow]:
    """Yield the rows of a table in FOUND_SCHEMA."""
    return (FoundRow(**line) for line in table.to_pylist())
