"""Data folders of Kaldi: ``wav.scp``, ``text``, and where there are some ``segments``, ``utt2spk`` and ``utt2lang``.

``wav.scp`` often holds commands instead of paths. They are never executed: a manifest must not be able to run programs.

Source: https://kaldi-asr.org/doc/data_prep.html
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from itertools import islice
from pathlib import Path

import pyarrow as pa

from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.errors import ManifestError
from whisper_shard.manifests.columns import Columns
from whisper_shard.manifests.folders import read_lines
from whisper_shard.manifests.lookup import Lookup
from whisper_shard.manifests.manifest import Manifest, digest_files
from whisper_shard.manifests.paths import PathFinder, find_folder
from whisper_shard.manifests.table import Line, make_tables

NEEDED = ("wav.scp", "text")
OPTIONAL = ("segments", "utt2spk", "utt2lang")
COLUMNS = Columns(audio="audio", text="text", speaker="speaker", language="language", start="start", end="end")
SAMPLE_LINES = 100
"""Lines of ``wav.scp`` that are looked at before anything is read."""
_ARCHIVE = re.compile(r"\.ark:\d+(\[.*\])?$")


class Kaldi:
    """A data folder, or its ``wav.scp`` or ``text``; see `formats.ManifestFormat`."""

    def recognizes(self, path: Path, _head: bytes, /) -> bool:
        """Return whether the needed files are there."""
        folder = _folder_of(path)
        return all((folder / name).is_file() for name in NEEDED)

    def open(self, path: Path, _head: bytes, _config: PrepareConfig, /) -> Manifest:
        """Check the first recordings."""
        folder = _folder_of(path)
        if missing := [name for name in NEEDED if not (folder / name).is_file()]:
            raise ManifestError(f"{folder}: holds no {' and no '.join(missing)}, as a data folder of Kaldi does")
        files = [folder / name for name in (*NEEDED, *OPTIONAL) if (folder / name).is_file()]
        first = [source for _, source in islice(_read_recordings(folder), SAMPLE_LINES)]
        base, prefix, place = find_folder(folder, first)
        finder = PathFinder(base, prefix)
        return Manifest(
            path=path,
            format="kaldi",
            folder=base,
            read=lambda: read_folder(folder, finder),
            digest=lambda: digest_files(folder, files),
            notes=(f"{folder.name} is a data folder of Kaldi: {', '.join(file.name for file in files)}", *place),
            repairs=finder.notes,
        )


def _folder_of(path: Path) -> Path:
    return path.parent if path.name in NEEDED else path


def read_folder(folder: Path, finder: PathFinder) -> Iterator[pa.Table]:
    """Yield the utterances as tables in MANIFEST_SCHEMA: those of ``text`` in its order, then those without a text."""
    with ExitStack() as stack:
        tables = {"wav.scp": stack.enter_context(Lookup())}
        _fill(folder / "wav.scp", tables["wav.scp"], _read_recordings(folder))
        for name in OPTIONAL:
            if (folder / name).is_file():
                tables[name] = stack.enter_context(Lookup())
                _fill(folder / name, tables[name], _read_pairs(folder / name))
        yield from make_tables(COLUMNS, _join(folder, tables), finder)


def _fill(file: Path, table: Lookup, pairs: Iterator[tuple[str, str]]) -> None:
    if (repeated := table.add_all(pairs)) is not None:
        raise ManifestError(f"{file}: has {repeated!r} twice; run utils/fix_data_dir.sh")


def _read_pairs(file: Path) -> Iterator[tuple[str, str]]:
    for line in read_lines(file):
        name, _, rest = line.replace("\t", " ").partition(" ")
        yield name, rest.strip()


def _read_recordings(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield name and path of each recording.

    Raises:
        ManifestError: A recording is a command, standard input, or in an archive.
    """
    file = folder / "wav.scp"
    for name, source in _read_pairs(file):
        if source.endswith("|") or source == "-":
            raise ManifestError(
                f"{file}: {name} is a command, which is never executed: {source[:80]!r}; "
                "run it once, and name the file that it writes"
            )
        if _ARCHIVE.search(source):
            raise ManifestError(
                f"{file}: {name} is in an archive of Kaldi: {source[:80]!r}; "
                "copy the recordings to files (wav-copy), and name those"
            )
        yield name, source


def _join(folder: Path, tables: Mapping[str, Lookup]) -> Iterator[Line]:
    """Yield the lines of ``text`` with what the other files say of them."""
    where = "segments" if "segments" in tables else "wav.scp"
    audio, has_segments = tables[where], where == "segments"
    known = {role: tables[name] for role, name in (("speaker", "utt2spk"), ("language", "utt2lang")) if name in tables}
    for name, text in _read_pairs(folder / "text"):
        values = {"id": name, "text": text, **{role: table.get(name) for role, table in known.items()}}
        found = audio.use(name)
        if found is None:
            yield Line({**values, "audio": ""}, ("missing_path", f"{name} is not in {where}"))
        else:
            yield _locate(values, found, tables["wav.scp"]) if has_segments else Line({**values, "audio": found})
    for name, found in audio.unused():
        source = found if not has_segments else tables["wav.scp"].get(found.split(" ")[0]) or ""
        yield Line({"id": name, "audio": source, "text": ""}, ("missing_transcript", f"{name} is not in text"))


def _locate(values: Mapping[str, object], segment: str, recordings: Lookup) -> Line:
    """Return a line with the recording and the times of its segment."""
    fields = segment.split()
    if len(fields) < 3:
        return Line({**values, "audio": ""}, ("malformed_row", f"segments says {segment!r}, not recording, begin, end"))
    source = recordings.use(fields[0])
    if source is None:
        return Line({**values, "audio": ""}, ("missing_path", f"{fields[0]} is not in wav.scp"))
    # -1 stands for the end of the recording.
    end = None if fields[2].startswith("-") else fields[2]
    return Line({**values, "audio": source, "start": fields[1], "end": end, "recording": fields[0]})
