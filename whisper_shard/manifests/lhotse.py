"""Manifests of Lhotse: recordings and supervisions, or cuts, as JSON or JSON lines, plain or compressed with gzip.

Each supervision becomes a row: a segment of its recording. A cut gives one row for each of its supervisions, as
``cuts.trim_to_supervisions()`` would. Only files and URLs are read, commands are never executed; what else
audio can be in Lhotse (mixed, augmented, features only) becomes a reject that says so.

Source: https://lhotse.readthedocs.io
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.errors import ManifestError
from whisper_shard.manifests.columns import Columns
from whisper_shard.manifests.folders import choose_split
from whisper_shard.manifests.json import BadJson, begins_like_json, read_values
from whisper_shard.manifests.lookup import Lookup
from whisper_shard.manifests.manifest import Manifest, digest_files
from whisper_shard.manifests.paths import PathFinder, find_folder
from whisper_shard.manifests.table import Line, make_tables
from whisper_shard.storage.location import is_url

COLUMNS = Columns(
    audio="audio",
    text="text",
    language="language",
    speaker="speaker",
    start="start",
    duration="duration",
    channel="channel",
)
SUFFIXES = (".json", ".jsonl", ".json.gz", ".jsonl.gz")
SAMPLE_ROWS = 100
"""Recordings or cuts that are looked at before anything is read."""
_SAME_SECONDS = 0.001  # how far a supervision of a whole recording may be from its length, by rounding
_HARMLESS = {"Resample"}  # transforms after which the audio of the file is still what is said
_UNSUPPORTED = "unsupported_recording"


class Lhotse:
    """A file of cuts, supervisions or recordings, or a folder with some; see `formats.ManifestFormat`."""

    def recognizes(self, path: Path, head: bytes, /) -> bool:
        """Return whether the first object is one of Lhotse."""
        return bool(_list_files(path)) if path.is_dir() else begins_like_json(head) and find_kind(path) is not None

    def open(self, path: Path, _head: bytes, _config: PrepareConfig, /) -> Manifest:
        """Find the files, and check the first recordings."""
        files, read, notes = _choose_files(path)
        folder = files[0].parent
        sources = _check_first(files[-1])
        base, prefix, place = find_folder(folder, sources)
        finder = PathFinder(base, prefix)
        return Manifest(
            path=path,
            format="lhotse",
            folder=base,
            read=lambda: make_tables(COLUMNS, read(), finder),
            digest=lambda: digest_files(folder, files),
            notes=(f"{path.name} is a manifest of Lhotse: {', '.join(file.name for file in files)}", *notes, *place),
            repairs=finder.notes,
        )


def find_kind(path: Path) -> str | None:
    """Return what a file of Lhotse has in it, by its first object: cuts, recordings, supervisions or None."""
    try:
        first = next(read_values(path, "utf-8"), None)
    except ManifestError:
        return None
    if not isinstance(first, dict):
        return None
    if isinstance(first.get("supervisions"), list) or str(first.get("type", "")).endswith("Cut"):
        return "cuts"
    if isinstance(first.get("sources"), list) and "sampling_rate" in first:
        return "recordings"
    return "supervisions" if {"id", "recording_id", "start", "duration"} <= first.keys() else None


def _list_files(folder: Path) -> dict[Path, str]:
    """Return the files of Lhotse in a folder, with what is in them."""
    files = [file for file in sorted(folder.iterdir()) if file.name.endswith(SUFFIXES) and file.is_file()]
    return {file: kind for file in files if (kind := find_kind(file))}


def _choose_files(path: Path) -> tuple[tuple[Path, ...], Callable[[], Iterator[Line]], list[str]]:
    """Return the files to read, what reads them, and notes; the recordings, or the cuts, come last.

    Raises:
        ManifestError: There are none, or several of the same kind.
    """
    kinds = _list_files(path if path.is_dir() else path.parent)
    file, notes = path, list[str]()
    if path.is_dir():
        wanted = "supervisions" if "supervisions" in kinds.values() else "cuts"
        candidates = [found for found, kind in kinds.items() if kind == wanted]
        chosen, notes = choose_split(path, candidates) if len(candidates) > 1 else (candidates, [])
        if len(chosen) != 1:
            found = ", ".join(found.name for found in chosen) or "no supervisions and no cuts"
            raise ManifestError(f"{path}: holds {found}; name one file of supervisions or cuts of Lhotse")
        file = chosen[0]
    match kinds.get(file):
        case "cuts":
            return (file,), partial(_read_cuts, file), notes
        case "supervisions":
            recordings = _find_partner(file, "supervisions", "recordings", kinds)
            return (file, recordings), partial(_read_supervisions, file, recordings), notes
        case "recordings":
            supervisions = _find_partner(file, "recordings", "supervisions", kinds)
            return (supervisions, file), partial(_read_supervisions, supervisions, file), notes
    raise ManifestError(f"{file}: is neither cuts, supervisions nor recordings of Lhotse")


def _find_partner(file: Path, kind: str, other: str, kinds: Mapping[Path, str]) -> Path:
    """Return the file of recordings for one of supervisions, or the other way round."""
    stem = file.name.split(".")[0].replace(kind, other).replace(kind[:-1], other[:-1])
    partners = [found for found, found_kind in kinds.items() if found_kind == other]
    named = [found for found in partners if found.name.split(".")[0] == stem]
    if len(named or partners) != 1:
        raise ManifestError(f"{file}: is {kind} of Lhotse; put their {other} beside it, as {stem}.jsonl.gz")
    return (named or partners)[0]


def _check_first(file: Path) -> list[str]:
    """Return the audio paths of the first recordings or cuts.

    Raises:
        ManifestError: None of them can be read.
    """
    sources, faults = list[str](), list[str]()
    for value in islice(read_values(file, "utf-8"), SAMPLE_ROWS):
        recording = value.get("recording", value) if isinstance(value, dict) else {}
        if not isinstance(recording, dict) or not recording.get("sources"):
            continue
        source, _, fault = locate(recording, None)
        sources.append(source)
        faults += [fault[1]] if fault else []
    if faults and len(faults) == len(sources):
        raise ManifestError(f"{file}: none of its first {len(sources)} recordings can be read: {faults[0]}")
    return sources


def _read_supervisions(supervisions: Path, recordings: Path) -> Iterator[Line]:
    with Lookup() as table:
        pairs = ((str(value["id"]), json.dumps(value)) for value in _objects(recordings) if "id" in value)
        if (repeated := table.add_all(pairs)) is not None:
            raise ManifestError(f"{recordings}: has the recording {repeated!r} twice")
        for value in read_values(supervisions, "utf-8"):
            if isinstance(value, dict) and (text := table.use(str(value.get("recording_id")))) is not None:
                yield _as_line(value, json.loads(text), 0.0)
            else:
                yield _broken(value, f"no recording {value.get('recording_id')!r}" if isinstance(value, dict) else "")
        for name, text in table.unused():
            source, _, _ = locate(json.loads(text), None)
            yield Line({"audio": source, "id": name}, ("missing_transcript", f"recording {name} has no supervision"))


def _read_cuts(file: Path) -> Iterator[Line]:
    for cut in read_values(file, "utf-8"):
        if not isinstance(cut, dict):
            yield _broken(cut, "")
        elif "tracks" in cut or "recording" not in cut:
            words = "is mixed of several recordings" if "tracks" in cut else "has no recording"
            yield Line(
                {"id": cut.get("id")}, (_UNSUPPORTED, f"cut {cut.get('id')} {words}; store it: cuts.save_audios")
            )
        elif not cut.get("supervisions"):
            source, _, _ = locate(cut["recording"], None)
            yield Line({"audio": source, "id": cut.get("id")}, ("missing_transcript", "the cut has no supervision"))
        else:
            for supervision in cut["supervisions"]:
                named = {"channel": cut.get("channel"), **supervision, "cut_id": cut.get("id")}
                yield _as_line(named, cut["recording"], float(cut.get("start", 0.0)))


def _objects(file: Path) -> Iterator[dict[str, Any]]:
    return (value for value in read_values(file, "utf-8") if isinstance(value, dict))


def _broken(value: Any, words: str) -> Line:
    if isinstance(value, dict):
        return Line({"audio": "", **value}, ("missing_path", words))
    return Line({}, ("malformed_row", str(value) if isinstance(value, BadJson) else "no object"))


def _as_line(supervision: Mapping[str, Any], recording: Mapping[str, Any], offset: float) -> Line:
    """Return the row of a supervision.

    Args:
        supervision: As Lhotse writes it.
        recording: What it belongs to.
        offset: Where in the recording its times begin, in seconds.
    """
    source, channel, fault = locate(recording, supervision.get("channel"))
    values = {**supervision, "audio": source, "channel": channel}
    try:
        start = round(offset + float(supervision["start"]), 6)
        duration = float(supervision["duration"])
    except (KeyError, TypeError, ValueError):
        return Line(values | {"start": None, "duration": None}, ("malformed_row", "no start or no duration"))
    is_whole = start == 0 and abs(duration - float(recording.get("duration", -1.0))) < _SAME_SECONDS
    return Line({**values, "start": None if is_whole else start, "duration": duration}, fault)


def locate(recording: Mapping[str, Any], channel: Any) -> tuple[str, int | None, tuple[str, str] | None]:
    """Return the file of a recording, the channel in it (None: all), and why it cannot be read.

    Args:
        recording: As Lhotse writes it.
        channel: A number, several, or None for all; Lhotse counts them over all files of the recording.
    """
    wanted = set(channel if isinstance(channel, list) else [] if channel is None else [channel])
    sources: Sequence[Mapping[str, Any]] = [
        source for source in recording.get("sources", []) if not wanted or wanted & set(source.get("channels", []))
    ]
    if len(sources) != 1:
        words = "no file has its channel" if not sources else "its channels are in several files"
        return "", None, (_UNSUPPORTED, words)
    (source,) = sources
    path, channels = str(source.get("source", "")), source.get("channels", [])
    if source.get("type") != "file" and not (source.get("type") == "url" and is_url(path)):
        kind = source.get("type")
        words = "a command, which is never executed" if kind == "command" else f"no local file but a {kind}"
        return path[:80], None, (_UNSUPPORTED, f"its audio is {words}: {path[:80]!r}; store it in a file")
    if names := {str(step.get("name")) for step in recording.get("transforms") or []} - _HARMLESS:
        return path, None, (_UNSUPPORTED, f"it is augmented ({', '.join(sorted(names))}), and the file is not")
    is_one = len(wanted) == 1 and len(channels) > 1
    return path, channels.index(next(iter(wanted))) if is_one else None, None
