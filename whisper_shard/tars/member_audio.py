"""The audio of an utterance as a loader will decode it: the member, or a segment of it, at 16 kHz."""

import io
from collections.abc import Sequence

from isal.isal_zlib import crc32

from whisper_shard.audio.decoders import decode_recording
from whisper_shard.audio.recording import Decoder, Recording
from whisper_shard.audio.resample import resample
from whisper_shard.dataset.reader import suffix_of
from whisper_shard.dataset.sources.protocol import ByteReader
from whisper_shard.errors import AudioError, DatasetError
from whisper_shard.tars.rows import FoundRow
from whisper_shard.utterance import SAMPLE_RATE, ManifestRow, Waveform

TOLERANCE_SECONDS = 0.2
"""By how much a stated duration may differ from that of the audio. Source: NeMo's LazyNeMoTarredIterator."""


class MemberAudio:
    """Reads and decodes members of one tar; keeps the last one, of which several utterances may be segments."""

    def __init__(
        self,
        rows: Sequence[FoundRow],
        source: ByteReader,
        *,
        tar: str,
        decoders: tuple[Decoder, ...],
        max_seconds: float,
    ) -> None:
        """Prepare to read.

        Args:
            rows: The utterances.
            source: Reads the tar as shard 0; closed with this.
            tar: Its path or URL, for errors.
            decoders: In the order in which they are tried.
            max_seconds: Longer members are rejected.
        """
        self._rows = {row.row: row for row in rows}
        self._source = source
        self._tar = tar
        self._decoders = decoders
        self._max_seconds = max_seconds
        self._last: tuple[int, Waveform] | None = None

    def read(self, row: ManifestRow) -> Recording:
        """Return the audio of an utterance, known by its row number, at 16 kHz.

        Raises:
            AudioError: It cannot be decoded, or the segment lies outside of it.
            DatasetError: The tar has changed since it was read.
        """
        found = self._rows[row.row]
        if self._last is None or self._last[0] != found.audio_offset:
            self._last = (found.audio_offset, self._decode(found))
        waveform = self._last[1]
        return Recording(waveform=waveform[_find_segment(found, len(waveform))], sample_rate=SAMPLE_RATE)

    def close(self) -> None:
        """Close the source."""
        self._source.close()

    def _decode(self, row: FoundRow) -> Waveform:
        body = self._source.read(0, row.audio_offset, row.audio_bytes)
        if crc32(body) != row.audio_crc32:
            raise DatasetError(
                f"{self._tar}: {row.name} has changed since the tar was read; run the same command again"
            )
        recording = decode_recording(
            io.BytesIO(body), suffix=suffix_of(row.name), decoders=self._decoders, max_seconds=self._max_seconds
        )
        return resample(recording.waveform, recording.sample_rate)


def start_of(row: FoundRow) -> int:
    """Return the first sample of an utterance in its member."""
    return round((row.start_seconds or 0.0) * SAMPLE_RATE)


def _find_segment(row: FoundRow, num_samples: int) -> slice:
    start, tolerance = start_of(row), round(TOLERANCE_SECONDS * SAMPLE_RATE)
    if row.seconds is None:
        end = num_samples
    else:
        end = start + round(row.seconds * SAMPLE_RATE)
        # A duration in a manifest is rounded, or that of the file before it was encoded.
        if start == 0 and abs(end - num_samples) < tolerance:
            end = num_samples
    if end > num_samples + tolerance or start >= num_samples:
        raise AudioError(
            f"the segment from {start / SAMPLE_RATE:.3f} to {end / SAMPLE_RATE:.3f} s lies outside of "
            f"{num_samples / SAMPLE_RATE:.3f} s of audio",
            reason="bad_segment",
        )
    return slice(start, min(end, num_samples))
