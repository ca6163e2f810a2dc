"""The audio files that a manifest means, where what it says is not quite the path of a file.

Paths with backslashes, without a suffix, or in another Unicode form than on the disk (macOS stores names decomposed)
are looked up; what was found is used and counted in a note. Nothing else is looked up, so that a manifest of ten
million ordinary paths costs no system call.
"""

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from whisper_shard.storage.location import is_url

AUDIO_SUFFIXES = (
    ".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".mp4", ".webm", ".aac", ".wma", ".amr", ".aif", ".aiff", ".au",
    ".caf", ".w64", ".mka", ".mkv", ".sph", ".3gp", ".oga", ".mov",
)  # fmt: skip
"""Suffixes of recordings, in lower case, in the order in which a missing one is looked for."""
_SUFFIX_SET = frozenset(AUDIO_SUFFIXES)
SAMPLE_PATHS = 20
"""Paths that are looked up in order to find the folder to which they are relative."""
_MAX_SUBFOLDERS = 100
_ANY_SUFFIX = re.compile(r"\.[A-Za-z][A-Za-z0-9]{1,4}$")
_WORDS = {
    "backslashes": "with backslashes, read with slashes",
    "form": "found under the other Unicode form of the name (NFC or NFD)",
    "suffix": "without a suffix, found with one",
}


def has_audio_suffix(path: str) -> bool:
    """Return whether a path ends like a recording."""
    dot = path.rfind(".")  # os.path.splitext takes five times as long, and a Path fifty times, ten million times
    return dot >= 0 and path[dot:].lower() in _SUFFIX_SET


def has_suffix(path: str) -> bool:
    """Return whether a path ends like the name of a file."""
    return _ANY_SUFFIX.search(path) is not None


class PathFinder:
    """Finds the files that paths mean, and counts what had to be mended."""

    def __init__(self, folder: Path, prefix: str = "") -> None:
        """Prepare to look in ``folder``; every path is meant to begin with ``prefix``, such as ``clips/``."""
        self._folder, self._prefix = folder, prefix
        self._suffixes = list(AUDIO_SUFFIXES)
        self._counts = Counter[str]()
        self._examples = dict[str, str]()

    def find_all(self, sources: Sequence[str]) -> list[str | None]:
        """Return for each path the one to use, relative to the folder, or None where it is right as it is."""
        return [self.find(source) for source in sources]

    def find(self, source: str) -> str | None:
        """Return the path to use instead of ``source``, or None where it is right as it is or nothing better exists."""
        plain = self._prefix + source if self._prefix else None
        if is_url(source):
            return None
        if not source or ("\\" not in source and source.isascii() and has_audio_suffix(source)):
            return plain
        if self.exists(plain or source):
            return plain
        for mended, faults in self._mend(self._prefix + source):
            if self.exists(mended):
                for fault in faults:
                    self._counts[fault] += 1
                    self._examples.setdefault(fault, source)
                return mended
        if (self._folder / self._prefix / source).is_dir():
            return plain  # which says so when it is opened
        # A file that is added later should be noticed, so the row names the file that would be it.
        return plain if has_suffix(source) else self._prefix + source + self._suffixes[0]

    def notes(self) -> list[str]:
        """Return a line for each kind of path that was mended so far."""
        return [
            f"{count:,} audio {'path' if count == 1 else 'paths'} {_WORDS[fault]}, such as {self._examples[fault]!r}"
            for fault, count in sorted(self._counts.items())
        ]

    def exists(self, path: str) -> bool:
        """Return whether there is a file at this path."""
        try:
            return (self._folder / path).is_file()
        except (OSError, ValueError):
            return False

    def _mend(self, path: str) -> Iterator[tuple[str, list[str]]]:
        """Yield paths that may be meant, with what is mended in each."""
        for slashed, faults in ((path, []), (path.replace("\\", "/"), ["backslashes"])):
            if faults and slashed == path:
                continue
            yield slashed, faults
            for form in ("NFC", "NFD"):
                if (other := unicodedata.normalize(form, slashed)) != slashed:
                    yield other, [*faults, "form"]
            if not has_suffix(slashed):
                yield from ((suffixed, [*faults, "suffix"]) for suffixed in self._add_suffix(slashed))

    def _add_suffix(self, path: str) -> Iterator[str]:
        for suffix in tuple(self._suffixes):
            for spelled in (suffix, suffix.upper()):
                if self.exists(path + spelled):
                    # Most corpora have one kind of file: tried first, it costs one system call for each row.
                    self._suffixes.remove(suffix)
                    self._suffixes.insert(0, suffix)
                    yield path + spelled
                    return


def find_folder(folder: Path, sources: Sequence[str]) -> tuple[Path, str, list[str]]:
    """Find the folder to which audio paths are relative, from the first of them.

    It is the folder of the manifest unless none of the files is there: then the one subfolder (such as ``clips``) or
    the nearest folder above in which some are.

    Args:
        folder: Folder of the manifest.
        sources: Audio paths; the first SAMPLE_PATHS are looked up.

    Returns:
        The folder, what to put before each path (a subfolder with a slash, or nothing), and notes.
    """
    found = [source for source in sources if source and not source.startswith("/") and not is_url(source)]
    found = found[:SAMPLE_PATHS]
    if not found or _holds_any(folder, found):
        return folder, "", []
    subfolders = [sub for sub in _subfolders(folder) if _holds_any(folder / sub, found)]
    if len(subfolders) == 1:
        return folder, f"{subfolders[0]}/", [f"audio paths are relative to {folder / subfolders[0]}"]
    if len(subfolders) > 1:
        names = ", ".join(sorted(subfolders))
        return folder, "", [f"several folders hold files of these names ({names}); make the audio paths say which"]
    above = next((parent for parent in folder.absolute().parents if _holds_any(parent, found)), None)
    return (folder, "", []) if above is None else (above, "", [f"audio paths are relative to {above}"])


def _holds_any(folder: Path, sources: Sequence[str]) -> bool:
    finder = PathFinder(folder)
    return any(finder.exists(finder.find(source) or source) for source in sources)


def _subfolders(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir())[:_MAX_SUBFOLDERS]
    except OSError:
        return []
