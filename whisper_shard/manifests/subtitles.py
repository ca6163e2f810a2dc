"""Long recordings with subtitles beside them: SRT, WebVTT, TextGrid, or CTM.

The corpus is a folder of recordings that each have a file of the same name beside them, one such file, one CTM for
all recordings of its folder, or a table whose transcripts are paths of such files. A recording becomes utterances that
are cut at the pauses between cues, and the times of the cues are kept: ``segments`` in each utterance, for training
with timestamps.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.errors import ManifestError
from whisper_shard.manifests.columns import Columns
from whisper_shard.manifests.csv import Csv
from whisper_shard.manifests.cues import PARSERS, Cue, join_words, looks_like_cues, read_ctm_line, read_cues
from whisper_shard.manifests.folders import find_first, read_lines, walk_files
from whisper_shard.manifests.json import Json
from whisper_shard.manifests.manifest import Manifest, digest_files
from whisper_shard.manifests.paths import AUDIO_SUFFIXES, PathFinder, has_audio_suffix
from whisper_shard.manifests.table import Line, make_tables
from whisper_shard.manifests.utterances import check_cues, cut_utterances
from whisper_shard.text.languages import is_language, whisper_language

COLUMNS = Columns(
    audio="audio", text="text", language="language", speaker="speaker", start="start", end="end", channel="channel"
)
CTM_CHANNELS = {"1": 0, "A": 0, "a": 0, "2": 1, "B": 1, "b": 1}
"""Names of channels in CTM files, and their numbers; in a file with a channel ``0`` the names are the numbers."""


class Subtitles:
    """Recordings with subtitles; see `formats.ManifestFormat`."""

    def recognizes(self, path: Path, head: bytes, /) -> bool:
        """Return whether this is a subtitle file, a folder with one beside a recording, or a table that names some."""
        if path.is_dir():
            return find_first(path, _is_subtitle) is not None
        return _is_subtitle(path.name) or _names_subtitles(path, head)

    def open(self, path: Path, head: bytes, config: PrepareConfig, /) -> Manifest:
        """Find the recording of each file."""
        if path.is_file() and not _is_subtitle(path.name):
            return _open_table(path, head, config)
        files = [path] if path.is_file() else list(walk_files(path, _is_subtitle))
        folder = path.parent if path.is_file() else path
        if not files:
            raise ManifestError(f"{path}: holds no file of subtitles ({', '.join(PARSERS)})")
        if not any(looks_like_cues(file, config) or file.suffix.lower() == ".ctm" for file in files[:20]):
            raise ManifestError(f"{files[0]}: holds no cue, though its name ends as subtitles do")
        reader = _Reader(folder=folder, config=config)
        return Manifest(
            path=path,
            format="subtitles",
            folder=folder,
            read=lambda: make_tables(COLUMNS, reader.read(files, is_whole=path.is_dir()), PathFinder(folder)),
            digest=lambda: _digest(folder, files, reader.recordings() if path.is_dir() else ()),
            notes=(_describe(path, files),),
            repairs=reader.notes,
        )


def _is_subtitle(name: str) -> bool:
    return Path(name).suffix.lower() in PARSERS


def _names_subtitles(path: Path, head: bytes) -> bool:
    """Return whether the transcripts of a table are paths of subtitle files."""
    if not any(suffix.encode() in head.lower() for suffix in PARSERS):
        return False
    try:
        table = next(_open_list(path, head, PrepareConfig()).read(), None)
    except ManifestError:
        return False
    texts = table["transcript"].to_pylist() if table is not None else []
    return bool(texts) and all(map(_is_subtitle, filter(None, texts))) and any(texts)


def _open_list(path: Path, head: bytes, config: PrepareConfig) -> Manifest:
    return (Json() if Json().recognizes(path, head) else Csv()).open(path, head, config)


def _open_table(path: Path, head: bytes, config: PrepareConfig) -> Manifest:
    """Return the manifest of a table with a recording and its subtitles in each row."""
    table = _open_list(path, head, config)
    reader = _Reader(folder=path.parent, config=config)

    def files() -> Iterator[Path]:
        return (path.parent / name for rows in table.read() for name in rows["transcript"].to_pylist() if name)

    def read() -> Iterator[Line]:
        for rows in table.read():
            for row in rows.to_pylist():
                yield from reader.read_row(row)

    return replace(
        table,
        format="subtitles",
        read=lambda: make_tables(COLUMNS, read(), PathFinder(Path(str(table.folder)))),
        digest=lambda: _digest(path.parent, [path, *sorted(set(files()))], ()),
        notes=(*table.notes, "its transcripts are files of subtitles"),
        repairs=lambda: [*table.repairs(), *reader.notes()],
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reader:
    """Reads the subtitles of recordings, and counts what it assumed."""

    folder: Path
    config: PrepareConfig
    counts: Counter[str] = field(default_factory=Counter)

    def notes(self) -> list[str]:
        return [f"{count:,} files of subtitles: {note}" for note, count in sorted(self.counts.items())]

    def recordings(self) -> list[str]:
        return [file.relative_to(self.folder).as_posix() for file in walk_files(self.folder, has_audio_suffix)]

    def read(self, files: Sequence[Path], *, is_whole: bool) -> Iterator[Line]:
        """Yield the utterances of all files, then, of a folder, a rejected line for each recording without any."""
        names = [file.relative_to(self.folder).as_posix() for file in files]
        audio = dict.fromkeys(self.recordings(), False) if is_whole else None
        found = {name: self._find_recording(name) for name in names}
        uses = Counter(recording for recording, _ in found.values())
        for file, name in zip(files, names, strict=True):
            recording, language = found[name]
            if not recording and file.suffix.lower() == ".ctm":
                lines = self._read_shared_ctm(file)
            elif recording and uses[recording] > 1:
                same = " and ".join(other for other in names if found[other][0] == recording)
                fault = ("several_subtitles", f"{same} belong to one recording; keep one of them")
                lines = iter([Line({"audio": recording, "text": ""}, fault)] if name == same.split(" and ")[0] else [])
            else:
                lines = self._read_file(file, {"audio": recording, "language": language, "subtitles": name})
            for line in lines:
                if audio is not None:
                    audio[str(line.values["audio"])] = True
                yield line
        for recording, is_used in (audio or {}).items():
            if not is_used:
                yield Line({"audio": recording, "text": ""}, ("missing_transcript", "has no subtitles beside it"))

    def read_row(self, row: dict[str, object]) -> Iterator[Line]:
        """Yield the utterances of a row of a table in MANIFEST_SCHEMA."""
        values = {name: row[name] for name in ("language", "speaker", "channel")}
        values |= {"audio": row["file"] or row["source"], "subtitles": row["transcript"]}
        if row["reason"] is not None:
            yield Line({**values, "text": ""}, (str(row["reason"]), str(row["detail"])))
        elif not _is_subtitle(str(row["transcript"])):
            words = f"{str(row['transcript'])[:60]!r} is no file of subtitles ({', '.join(PARSERS)})"
            yield Line({**values, "text": ""}, ("missing_transcript", words))
        else:
            yield from self._read_file(self.folder / str(row["transcript"]), values)

    def _find_recording(self, name: str) -> tuple[str, str | None]:
        """Return the recording beside a file, empty if there is none, and the language that the name says."""
        finder = PathFinder(self.folder)
        stem, _, tag = name.rpartition(".")[0].rpartition(".")
        whole = name.rpartition(".")[0]
        if has_audio_suffix(whole) and finder.exists(whole):
            return whole, None
        for base, language in ((whole, None), (stem, tag if is_language(whisper_language(tag)) else None)):
            if base and (base == whole or language):
                spelled = (base + form for suffix in AUDIO_SUFFIXES for form in (suffix, suffix.upper()))
                if recording := next(filter(finder.exists, spelled), None):
                    return recording, language
        return "", None

    def _read_file(self, file: Path, values: dict[str, object]) -> Iterator[Line]:
        if not values["audio"]:
            yield Line({**values, "audio": "", "text": ""}, ("missing_path", f"no recording lies beside {file.name}"))
            return
        try:
            found = read_cues(file, self.config)
        except ManifestError as error:
            yield Line({**values, "text": ""}, ("unreadable_subtitles", str(error)))
            return
        if found.note:
            self.counts[found.note.partition(" ")[2]] += 1
        yield from self._cut(found.cues, values)

    def _read_shared_ctm(self, file: Path) -> Iterator[Line]:
        """Yield the utterances of a CTM that names its recordings, one recording after the other."""
        base, finder = file.parent.relative_to(self.folder).as_posix(), PathFinder(self.folder)
        channels = {} if any(channel == "0" for (_, channel), _ in _read_ctm(file)) else CTM_CHANNELS
        words = _read_ctm(file)
        for (name, channel), of_recording in groupby(words, key=itemgetter(0)):
            path = name if base == "." else f"{base}/{name}"
            values: dict[str, object] = {
                "audio": finder.find(path) or path,
                "channel": channels.get(channel, channel),
                "subtitles": file.name,
            }
            yield from self._cut(list(join_words(word for _, word in of_recording)), values)

    def _cut(self, cues: Sequence[Cue], values: dict[str, object]) -> Iterator[Line]:
        limit, before = self.config.max_seconds, ""
        for utterance in cut_utterances(check_cues(cues, max_seconds=limit), max_seconds=limit):
            first, last = utterance[0], utterance[-1]
            if first.fault:
                reason = "cue_too_long" if "limit" in first.fault else "malformed_cue"
                yield Line({**values, "text": first.text}, (reason, first.fault))
                continue
            text = " ".join(cue.text for cue in utterance)
            yield Line(
                {
                    **values,
                    **({"prompt": before} if before else {}),
                    "text": text,
                    "start": first.start_seconds,
                    "end": last.end_seconds,
                    "segments": [
                        {
                            "start": round(cue.start_seconds - first.start_seconds, 3),
                            "end": round(cue.end_seconds - first.start_seconds, 3),
                            "text": cue.text,
                        }
                        for cue in utterance
                    ],
                }
            )
            before = text


def _read_ctm(file: Path) -> Iterator[tuple[tuple[str, str], Cue]]:
    """Yield the recording, the channel and the word of each line."""
    for number, line in enumerate(read_lines(file), 1):
        if line.strip() and not line.startswith(";;"):
            try:
                yield read_ctm_line(line, number)
            except ValueError as error:
                raise ManifestError(f"{file}: {error}") from error


def _describe(path: Path, files: Sequence[Path]) -> str:
    kinds = Counter(file.suffix.lower()[1:] for file in files)
    counted = ", ".join(f"{count:,} {kind}" for kind, count in sorted(kinds.items()))
    return f"{path.name} is recordings with subtitles ({counted}): utterances are cut at the pauses between cues"


def _digest(folder: Path, files: Sequence[Path], recordings: Sequence[str]) -> str:
    names = "\n".join(recordings).encode(errors="surrogateescape")
    present = [file for file in files if file.is_file() and file.is_relative_to(folder)]
    return hashlib.sha256(names + digest_files(folder, present).encode()).hexdigest()
