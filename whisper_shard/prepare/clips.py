"""Short pieces of audio for report.html, embedded in the page so that they play anywhere, without network and server.

They depend on shards and recordings alone, not on where these lie: a report has the same bytes on every machine.
"""

import stat
from collections.abc import Mapping, Sequence
from typing import Any

from isal.isal_zlib import crc32

from whisper_shard.audio.content import find_demuxer
from whisper_shard.audio.members import decode_member, encode_mp3
from whisper_shard.dataset.description import ShardInfo
from whisper_shard.errors import StateError
from whisper_shard.prepare.plan import SplitPlan
from whisper_shard.report.page import data_url
from whisper_shard.storage.location import Location, parse_location
from whisper_shard.storage.object_store import ObjectChanged, ObjectStore
from whisper_shard.utterance import SAMPLE_RATE, ManifestRow

CLIP_SECONDS = 8
"""Audio of an utterance at most, from its beginning."""
CLIP_CHARS = 1_200_000
"""Characters of all clips of utterances in a page at most."""
RECORDING_BYTES = 96_000
"""Bytes of a rejected recording at most, from its beginning."""
RECORDING_CHARS = 700_000
"""Characters of all rejected recordings in a page at most."""
_TYPES = {
    "wav": "audio/wav", "mp3": "audio/mpeg", "ogg": "audio/ogg", "aac": "audio/aac", "mov": "audio/mp4",
    "matroska": "audio/webm",
}  # fmt: skip


class UtteranceClips:
    """Clips of the utterances of a dataset that is being assembled, as long as there is room in the page."""

    def __init__(self, split: SplitPlan, shards: Sequence[ShardInfo], codec: str) -> None:
        """Prepare to read shards.

        Args:
            split: The dataset.
            shards: Its shards, as the index counts them.
            codec: Of its audio members.
        """
        self._split = split
        self._shards = shards
        self._codec = codec
        self._found: dict[str, str] = {}
        self._chars_left = CLIP_CHARS

    def find(self, row: Mapping[str, Any]) -> str | None:
        """Return an utterance as a data URL, or None where the page is full.

        Args:
            row: Of the index.

        Raises:
            StateError: The shard is damaged.
            EnvironmentFault: The network fails.
        """
        url = self._found.get(row["key"])
        if url is None:
            url = self._found[row["key"]] = self._encode(row)
        if len(url) > self._chars_left:
            return None
        self._chars_left -= len(url)
        return url

    def _encode(self, row: Mapping[str, Any]) -> str:
        audio = self._read(row)
        samples = decode_member(audio, suffix=self._codec, num_samples=row["num_samples"])
        return data_url("audio/mpeg", encode_mp3(samples[: CLIP_SECONDS * SAMPLE_RATE]))

    def _read(self, row: Mapping[str, Any]) -> bytes:
        path, output = self._split.folder / self._shards[row["shard"]].name, self._split.output
        place = output.remote.locate(path) if output.remote else parse_location(path)
        data = read_range(place, row["audio_offset"], row["audio_bytes"], output.store)
        if data is None or crc32(data) != row["audio_crc32"]:
            raise StateError(
                f"{place}: utterance {row['key']} is damaged; remove this tar and run the same command again"
            )
        return data


class RecordingClips:
    """The beginnings of rejected recordings, byte for byte: what a browser can play of them can be heard.

    They are not decoded: among them are those that no decoder survives.
    """

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._chars_left = RECORDING_CHARS

    def find(self, row: ManifestRow) -> str | None:
        """Return the beginning of a recording as a data URL; None for a part of a file, no audio, or a full page.

        Raises:
            EnvironmentFault: The network fails.
        """
        if row.member is not None or row.is_segment:
            return None
        data = read_range(parse_location(row.path), 0, RECORDING_BYTES, self._store) or b""
        kind = "audio/flac" if data.startswith(b"fLaC") else _TYPES.get(find_demuxer(data) or "")
        if data.startswith(b"ID3"):
            kind = "audio/mpeg"
        url = data_url(kind, data) if kind else None
        if url is None or len(url) > self._chars_left:
            return None
        self._chars_left -= len(url)
        return url


def read_range(place: Location, offset: int, num_bytes: int, store: ObjectStore) -> bytes | None:
    """Return bytes of a file, fewer where it ends; None where it cannot be read."""
    try:
        if not place.is_local:
            return bytes(store.get_range(place, offset, num_bytes).data)
        if not stat.S_ISREG(place.path.stat().st_mode):  # opening a pipe would wait for ever
            return None
        with place.path.open("rb") as file:
            file.seek(offset)
            return file.read(num_bytes)
    except (OSError, ValueError, ObjectChanged):  # ValueError: a name with a null byte
        return None
