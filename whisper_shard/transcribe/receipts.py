"""What an earlier run left in the output folder, and whether it can be kept.

Beside the transcripts lies a hidden folder with one record for each recording: state of the recording, model, settings
and all that was found. It is written last. So a run that was stopped is resumed, another format costs no second
transcription, and a transcript that somebody corrected by hand is never overwritten.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from whisper_shard.errors import StateError
from whisper_shard.storage.atomic import json_bytes
from whisper_shard.storage.files import read_file, write_file
from whisper_shard.storage.location import Location
from whisper_shard.storage.object_store import ObjectStore
from whisper_shard.transcribe.formats import FORMATS, Transcript, from_json, to_json

RECORDS_FOLDER = ".transcribe"
_MAX_BYTES = 1 << 30
_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What an earlier run found in a recording."""

    source: Sequence[int]
    """State of the recording."""
    settings: Mapping[str, Any]
    """Everything that decides the text: settings by name, and the model's fingerprint."""
    transcript: Transcript
    """What was found."""
    files: Mapping[str, str]
    """sha256 of each file that was written, by its name."""

    def find_change(self, source: Sequence[int], settings: Mapping[str, Any]) -> str:
        """Return what is different now; empty: nothing."""
        if list(self.source) != list(source):
            return "the recording has changed"
        names = [name for name in sorted({*self.settings, *settings}) if self.settings.get(name) != settings.get(name)]
        if not names:
            return ""
        changes = (f"{name} was {self.settings.get(name)!r}, is {settings.get(name)!r}" for name in names)
        return "another model" if names == ["model"] else f"other settings: {'; '.join(changes)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputFolder:
    """Where transcripts go, on this machine or in object storage."""

    location: Location
    """The folder; made when it is first written to."""
    formats: Sequence[str]
    """Files to write for each recording."""
    store: ObjectStore
    """Access to it."""

    def read_record(self, stem: str) -> Record | None:
        """Return what an earlier run found, None where there is none or it cannot be read.

        Raises:
            EnvironmentFault: The disk or the network fails.
        """
        try:
            content = json.loads(read_file(self._record(stem), self.store, max_bytes=_MAX_BYTES))
            if content["version"] != _VERSION:
                return None
            return Record(
                source=content["source"],
                settings=content["settings"],
                transcript=from_json(content["transcript"]),
                files=content["files"],
            )
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None

    def check_free(self, stem: str, record: Record | None) -> None:
        """Check that nothing would be overwritten but what an earlier run wrote.

        Raises:
            StateError: A file is there that was changed since, or that something else wrote.
            EnvironmentFault: The disk or the network fails.
        """
        for name in self._names(stem):
            content = self._read(name)
            if content is not None and (record is None or record.files.get(name) != _digest(content)):
                why = "was changed since it was written" if record and name in record.files else "is there already"
                raise StateError(f"{self.location.join(name)} {why}; move it away, or choose another --output")

    def write_missing(self, stem: str, record: Record) -> list[str]:
        """Write the files of a record that are not there, and return them.

        Raises:
            EnvironmentFault: The disk or the network fails.
        """
        missing = [name for name in self._names(stem) if self._read(name) is None]
        return self._write(stem, record, missing) if missing else []

    def write(self, stem: str, record: Record) -> list[str]:
        """Write all files of a recording and then its record; return the files.

        Raises:
            EnvironmentFault: The disk or the network fails.
        """
        return self._write(stem, record, self._names(stem))

    def _write(self, stem: str, record: Record, names: Sequence[str]) -> list[str]:
        files = dict(record.files)
        for name in names:
            content = FORMATS[name.rpartition(".")[2]](record.transcript).encode()
            write_file(self.location.join(*name.split("/")), content, self.store)
            files[name] = _digest(content)
        kept = {
            "version": _VERSION,
            "source": list(record.source),
            "settings": dict(record.settings),
            "transcript": to_json(record.transcript),
            "files": files,
        }
        write_file(self._record(stem), json_bytes(kept), self.store)
        return [str(self.location.join(*name.split("/"))) for name in names]

    def _names(self, stem: str) -> list[str]:
        return [f"{stem}.{kind}" for kind in self.formats]

    def _record(self, stem: str) -> Location:
        return self.location.join(RECORDS_FOLDER, *f"{stem}.json".split("/"))

    def _read(self, name: str) -> bytes | None:
        try:
            return read_file(self.location.join(*name.split("/")), self.store, max_bytes=_MAX_BYTES)
        except FileNotFoundError:
            return None


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
