"""The audio of a manifest row, wherever it lies: a file, a part of a file, or bytes in a Parquet file."""

import io
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import BinaryIO, Protocol

from whisper_shard.audio.cutting import RecordingCutter
from whisper_shard.audio.decoders import decode_recording, read_blocks
from whisper_shard.audio.files import open_recording
from whisper_shard.audio.recording import Decoder, Recording
from whisper_shard.audio.segments import Part, SegmentReader
from whisper_shard.errors import AudioError
from whisper_shard.manifests.embedded import EmbeddedAudio
from whisper_shard.utterance import ManifestRow

DURATION_TOLERANCE = (0.25, 0.02)
"""How far the length of a recording may be from the manifest's: so many seconds, or this share of it if that is more.

Encoders add and cut up to a tenth of a second of silence, and lengths are rounded; what is further off is another
recording, or a part of one.
"""


class RecordingReader(Protocol):
    """Reads the audio of rows."""

    def read(self, row: ManifestRow) -> Recording:
        """Return the audio of a row.

        Raises:
            AudioError: It cannot be decoded, or is not as long as the manifest says.
            OSError: The machine failed, not the file.
        """
        ...

    def close(self) -> None:
        """Close what is open."""
        ...


class RowReader:
    """Reads the audio of rows; cheapest in the order of the plan, which keeps the rows of a recording together."""

    def __init__(
        self,
        decoders: Sequence[Decoder],
        *,
        max_seconds: float,
        channel: int | None,
        audio_column: str,
        open_file: Callable[[str], BinaryIO] = open_recording,
    ):
        """Prepare to read.

        Args:
            decoders: In the order in which they are tried.
            max_seconds: Longer recordings, or parts of them, are rejected.
            channel: Of rows that do not say which; None: the average of all.
            audio_column: Column of Parquet files with the audio; empty: the one that holds audio.
            open_file: Opens a recording, or a Parquet file with some, by its path or URL.
        """
        self._decoders, self._max_seconds, self._channel = decoders, max_seconds, channel
        self._segments, self._open_file = SegmentReader(decoders), open_file
        self._embedded = EmbeddedAudio(audio_column, open_file=open_file)

    @property
    def num_passes(self) -> int:
        """How often a recording was opened in order to cut out parts of it."""
        return self._segments.num_passes

    def read(self, row: ManifestRow) -> Recording:
        """Return the audio of a row at its own sampling rate.

        Raises:
            AudioError: It cannot be decoded, or is not as long as the manifest says (``duration_mismatch``).
            OSError: The machine failed, not the file.
        """
        channel = self._channel if row.channel is None else row.channel
        if row.is_segment or channel is not None:
            part = Part(start_seconds=row.start_seconds or 0.0, end_seconds=row.end_seconds, channel=channel)
            recording = self._segments.read(
                row.recording, _suffix_of(row), lambda: self._open(row), part, max_seconds=self._max_seconds
            )
        else:
            with self._open(row) as file:
                recording = decode_recording(
                    file, suffix=_suffix_of(row), decoders=self._decoders, max_seconds=self._max_seconds
                )
        if row.duration_seconds is not None:
            _check_duration(row.duration_seconds, len(recording.waveform) / recording.sample_rate)
        return recording

    @contextmanager
    def cutting(self, row: ManifestRow, *, max_seconds: float) -> Iterator[tuple[RecordingCutter, BinaryIO]]:
        """Open the recording of a row to cut it into utterances; also gives the file, which says how far it is read.

        Args:
            row: A whole recording.
            max_seconds: Utterances are shorter; the recording may have any length.

        Raises:
            AudioError: It cannot be decoded.
            ConfigError: What finds speech is not installed.
            OSError: The machine failed, not the file.
        """
        channel = self._channel if row.channel is None else row.channel
        with self._open(row) as file:
            blocks = read_blocks(file, suffix=_suffix_of(row), decoders=self._decoders)
            yield RecordingCutter(blocks, channel=channel, max_seconds=max_seconds), file

    def close(self) -> None:
        """Close what is open."""
        self._segments.close()
        self._embedded.close()

    def _open(self, row: ManifestRow) -> BinaryIO:
        if row.member is None:
            return self._open_file(row.path)
        return io.BytesIO(self._embedded.read(row.path, row.member))


def _suffix_of(row: ManifestRow) -> str:
    path = row.path if row.member is None else row.source
    return os.path.splitext(path)[1].lower().removeprefix(".")  # noqa: PTH122 - a Path costs ten times as much


def _check_duration(promised: float, found: float) -> None:
    seconds, share = DURATION_TOLERANCE
    if abs(promised - found) > max(seconds, share * found):
        hint = "; is its column in milliseconds?" if 900 < promised / max(found, 1e-3) < 1100 else ""
        raise AudioError(
            f"the manifest says {promised:.3f} s, the recording has {found:.3f} s{hint}", reason="duration_mismatch"
        )
