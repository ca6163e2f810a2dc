"""What the columns of a manifest mean: found by their names, by flags, or by what is in them.

Every format that has named columns (CSV, JSON, Parquet) decides here which of them holds the audio path, the
transcript, and so on. To know another name of a column, add it to ROLES.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.errors import ManifestError
from whisper_shard.manifests.paths import has_audio_suffix

ROLES: Mapping[str, tuple[str, ...]] = {
    "audio": (
        "audios", "audio", "path", "file", "wav", "audio_filepath", "file_name", "filename", "audio_path", "audio_file",
        "file_path", "filepath", "wav_path", "wav_filename", "audio_file_name", "wav_file",
    ),
    "text": (
        "transcription", "text", "sentence", "transcript", "transcriptions", "transcripts", "normalized_text",
        "raw_text", "raw_transcription", "utterance", "subtitles", "subtitle", "captions",
    ),
    "language": ("language", "lang", "locale", "source_lang"),
    "speaker": ("speaker", "speaker_id", "client_id", "spk_id", "spk"),
    "task": ("task",),
    "start": ("offset", "start", "start_time", "start_seconds", "begin", "offset_ms", "start_ms"),
    "end": ("end", "end_time", "end_seconds", "stop", "end_ms"),
    "duration": ("duration", "duration_seconds", "duration_ms"),
    "channel": ("channel", "channel_id"),
}  # fmt: skip
"""Names of columns by meaning, in order of preference; matched without regard to case."""
_NEEDED = ("audio", "text")
ADVICE = "without texts, --segment vad cuts recordings into utterances whose texts a model writes later"
"""What can be done where there is no text."""
_LETTERS = re.compile(r"[^\W\d_]")
_LIKE = 0.9  # share of the first rows that must look like a path or a text


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Which column has which meaning; an empty name means that there is none."""

    audio: str
    """Audio paths."""
    text: str
    """Transcripts; empty: there are none."""
    language: str = ""
    """BCP-47 tags."""
    speaker: str = ""
    """Speakers."""
    task: str = ""
    """``transcribe`` or ``translate``."""
    start: str = ""
    """Where the utterance begins in the recording."""
    end: str = ""
    """Where it ends."""
    duration: str = ""
    """How long it is, or the recording."""
    channel: str = ""
    """Channel of the recording."""

    @property
    def used(self) -> set[str]:
        """Names of the columns that are not carried along as they are; the duration of a recording is."""
        roles = {field.name for field in fields(self)} - {"duration"}
        return {getattr(self, role) for role in roles} - {""}

    def describe(self, names: Sequence[str]) -> str:
        """Return a line about what is read from which column, and which are carried along."""
        meanings = {
            "audio": "audio paths", "text": "transcripts", "language": "languages", "speaker": "speakers",
            "task": "tasks", "start": "starts", "end": "ends", "duration": "durations", "channel": "channels",
        }  # fmt: skip
        parts = [f"{text} from {name!r}" for role, text in meanings.items() if (name := getattr(self, role))]
        others = [repr(name) for name in names if name not in self.used and name != self.duration]
        kept = f"; carried along: {_shorten(others)}" if others else ""
        return ", ".join(parts) + kept


def choose_columns(
    path: Path, names: Sequence[str], rows: Sequence[Mapping[str, Any]], config: PrepareConfig
) -> tuple[Columns, list[str]]:
    """Return what the columns mean, and notes about what was not certain.

    Args:
        path: The manifest, for errors.
        names: Its columns, in order.
        rows: Its first rows, for columns that are not known by name.
        config: Settings: columns named by the user, and columns without a meaning.

    Raises:
        ManifestError: No column for the audio or the transcript, or more than one that might be it.
    """
    asked = {"audio": config.audio_column, "text": config.text_column}
    found, notes = dict[str, str](), list[str]()
    for role, known in ROLES.items():
        if wanted := asked.get(role):
            if wanted in names:
                found[role] = wanted
            continue
        candidates = _by_name(known, [name for name in names if name not in config.ignore_columns])
        if candidates:
            found[role] = candidates[0]
        # Languages and speakers under further names are carried along as they are, which is no guess.
        if len(candidates) > 1 and role not in ("language", "speaker"):
            notes.append(_describe_choice(role, candidates))
    taken = set(found.values())
    # Where texts may be missing, no column is taken for them because of what it looks like.
    needed = ("audio",) if config.segment != "none" and not config.text_column else _NEEDED
    for role in needed:
        if role not in found and not asked[role]:
            found[role] = _by_content(path, role, [name for name in names if name not in taken], rows)
            taken.add(found[role])
    if missing := [role for role in needed if not found.get(role)]:
        raise _missing(path, missing, names, asked)
    if not found.get("text"):
        found["text"] = ""
        notes.append("no column has a usual name of transcripts, so there are none; --text-column names one")
    return Columns(**found), notes


def find_optional(columns: Columns, names: Collection[str], config: PrepareConfig) -> dict[str, str]:
    """Return further columns with a meaning, among names that were not there when the others were chosen."""
    candidates = [name for name in sorted(names) if name not in config.ignore_columns and name not in columns.used]
    return {
        role: found[0]
        for role, known in ROLES.items()
        if role not in _NEEDED and not getattr(columns, role) and (found := _by_name(known, candidates))
    }


def _by_name(known: Sequence[str], names: Sequence[str]) -> list[str]:
    """Return the columns with one of the known names, the exact spelling before others."""
    exact = [name for name in known if name in names]
    lower = [name for word in known for name in names if name.lower() == word and name not in exact]
    return sorted(dict.fromkeys((*exact, *lower)), key=lambda name: known.index(name.lower()))


def _describe_choice(role: str, names: Sequence[str]) -> str:
    others = " and ".join(repr(name) for name in names[1:])
    flag = {"audio": "; --audio-column names another", "text": "; --text-column names another"}.get(
        role, f"; give --ignore-columns {names[0]} to use another"
    )
    return f"column {names[0]!r} is taken for the {_meaning(role)}, though {others} would fit as well{flag}"


def _by_content(path: Path, role: str, names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the one column whose values look like paths, or like transcripts; empty if there is none.

    Raises:
        ManifestError: More than one looks like it.
    """
    fits = [name for name in names if _share(rows, name, looks_like_path if role == "audio" else _looks_like_text)]
    if role == "text" and len(fits) > 1:
        # A speaker or an identifier is one word; a column of transcripts has spaces in most of its rows.
        fits = [name for name in fits if _share(rows, name, _has_space, least=0.5)] or fits
    if len(fits) > 1:
        flag = f"--{role}-column"
        raise ManifestError(
            f"{path}: {_shorten([repr(name) for name in fits])} could all be the {_meaning(role)}; "
            f"say which: {flag} {fits[0]!r}"
        )
    return fits[0] if fits else ""


def _share(rows: Sequence[Mapping[str, Any]], name: str, test: Any, *, least: float = _LIKE) -> bool:
    values = [row.get(name) for row in rows]
    return bool(values) and sum(map(test, values)) >= least * len(values)


def looks_like_path(value: Any) -> bool:
    """Return whether a value names an audio file."""
    return isinstance(value, str) and has_audio_suffix(value.strip())


def _looks_like_text(value: Any) -> bool:
    return isinstance(value, str) and bool(_LETTERS.search(value)) and not has_audio_suffix(value.strip())


def _has_space(value: Any) -> bool:
    return isinstance(value, str) and " " in value.strip()


def _meaning(role: str) -> str:
    return {"audio": "audio path", "text": "transcript"}.get(role, role)


def _missing(path: Path, roles: Sequence[str], names: Sequence[str], asked: Mapping[str, str]) -> ManifestError:
    parts = []
    for role in roles:
        wanted = asked[role] or f"; one of {', '.join(ROLES[role])}"
        parts.append(f"the {_meaning(role)} (--{role}-column{wanted if wanted[0] == ';' else ' ' + wanted})")
    advice = f"; {ADVICE}" if list(roles) == ["text"] and not asked["text"] else ""
    return ManifestError(
        f"{path}: no column for {' nor for '.join(parts)}; it has: {_shorten([name[:40] for name in names])}{advice}"
    )


def _shorten(names: Sequence[str]) -> str:
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return ", ".join(names[:20]) + more
