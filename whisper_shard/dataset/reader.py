"""Rows of the index become records: bytes at an offset, each checked against the index before anything looks inside.

A `Source` fetches bytes of shards; `RecordReader` knows where an utterance lies and accepts nothing but exactly the
members the index promises: the two tar headers byte for byte, zeros between members, crc32 of both bodies. In a tar
that others wrote, `ForeignReader` reads the audio alone and checks its crc32; everything else is in the index. A tar is
never walked, and sizes come from the index alone, never from a tar header.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Protocol

import msgspec
import numpy as np
from isal.isal_zlib import crc32  # the crc32 of zlib, many times as fast: 3 us instead of 47 an utterance
from numpy.typing import NDArray

from whisper_shard.audio.foreign import decode_foreign, foreign_decoders
from whisper_shard.audio.members import decode_member
from whisper_shard.audio.recording import Decoder
from whisper_shard.dataset.index import Dataset, IndexReader
from whisper_shard.dataset.schema import ForeignDetails, Place
from whisper_shard.dataset.shard import BLOCK, tar_header
from whisper_shard.dataset.sources.protocol import ByteReader
from whisper_shard.errors import DatasetError

_DETAILED_SHARDS = 64  # shards whose texts a reader keeps, where the index has them


@dataclass(frozen=True, slots=True, kw_only=True)
class RawUtterance:
    """An utterance as it lies in the shard, its bytes checked."""

    key: str
    """Its key."""
    path: str
    """The shard's path."""
    suffix: str
    """Of the audio member: ``npy`` or ``flac`` in a shard of this package."""
    audio: memoryview
    """Body of the audio member."""
    json: memoryview
    """Body of the json member."""
    num_samples: int
    """What the index says of its length at 16 kHz."""
    start: int = 0
    """First sample of the utterance in the audio member."""
    decoders: tuple[Decoder, ...] = ()
    """For a member in a tar that others wrote; empty for one of this package."""
    text: str | None = None
    """What stands for the text of the json member, in a view with texts of its own; None: that text itself."""


class UtteranceReader(Protocol):
    """Reads utterances of one dataset by their row in the index."""

    index: IndexReader
    """Where they lie."""

    def read(self, row: int) -> RawUtterance:
        """Read an utterance with one request and check every byte of it.

        Raises:
            DatasetError: Damaged or missing; names shard, key and offset.
        """
        ...

    def close(self) -> None:
        """Close the source."""
        ...


def open_reader(dataset: Dataset, source: ByteReader) -> UtteranceReader:
    """Return the reader of a dataset; it closes the source."""
    return ForeignReader(dataset, source) if dataset.is_foreign else RecordReader(dataset, source)


class RecordReader:
    """Reads utterances from shards of this package."""

    def __init__(self, dataset: Dataset, source: ByteReader) -> None:
        self._source = source
        self.index = IndexReader(dataset)
        self._suffix = dataset.description.codec
        self._paths = [str(dataset.shard_location(shard)) for shard in range(len(dataset.shards))]
        self._is_relabeled = dataset.description.is_relabeled
        self._texts = lru_cache(_DETAILED_SHARDS)(self._read_texts)

    def read(self, row: int) -> RawUtterance:
        """Read an utterance with one request and check every byte of it.

        Raises:
            DatasetError: Damaged or missing; names shard, key and offset.
        """
        shard, place = self.index.find(row)
        start = place.audio_offset - BLOCK
        data = memoryview(self._source.read(shard, start, place.json_offset + place.json_bytes - start))
        fault = next(find_faults(data, place, suffix=self._suffix), None)
        if fault is not None:
            raise DatasetError(
                f"{self._paths[shard]}: utterance {place.key}: {fault}; restore the shard or prepare it again"
            )
        raw = raw_utterance(data, place, path=self._paths[shard], suffix=self._suffix)
        if not self._is_relabeled:
            return raw
        return replace(raw, text=self._texts(shard)[self.index.locate(row)[1]])

    def close(self) -> None:
        """Close the source."""
        self._source.close()

    def _read_texts(self, shard: int) -> list[str]:
        return self.index.rows(shard, "text")["text"]


class ForeignReader:
    """Reads utterances from tars that others wrote."""

    def __init__(self, dataset: Dataset, source: ByteReader) -> None:
        foreign = dataset.description.foreign
        assert foreign is not None
        self._source = source
        self.index = IndexReader(dataset)
        self._paths = [str(dataset.shard_location(shard)) for shard in range(len(dataset.shards))]
        self._decoders = foreign_decoders(foreign.npy_sample_rate)
        self._details = lru_cache(_DETAILED_SHARDS)(self.index.details)

    def read(self, row: int) -> RawUtterance:
        """Read the audio of an utterance with one request and check it; its text is in the index, checked with that.

        Raises:
            DatasetError: Damaged or missing; names shard, key and offset.
        """
        shard, place = self.index.find(row)
        audio = memoryview(self._source.read(shard, place.audio_offset, place.audio_bytes))
        if (found := crc32(audio)) != place.audio_crc32:
            raise DatasetError(
                f"{self._paths[shard]}: utterance {place.key}: audio at byte {place.audio_offset} has crc32 "
                f"{found:08x}, the index says {place.audio_crc32:08x}; restore the tar or index it again"
            )
        details = self._details(shard)[self.index.locate(row)[1]]
        return RawUtterance(
            key=place.key,
            path=self._paths[shard],
            suffix=suffix_of(details.source),
            audio=audio,
            json=memoryview(_as_json(details)),
            num_samples=place.num_samples,
            start=details.audio_start,
            decoders=self._decoders,
        )

    def close(self) -> None:
        """Close the source."""
        self._source.close()


def suffix_of(name: str) -> str:
    """Return the suffix of a member's name, without dot, in lower case; empty if it has none."""
    return name.rpartition("/")[2].rpartition(".")[2].lower() if "." in name.rpartition("/")[2] else ""


def _as_json(details: ForeignDetails) -> bytes:
    """Return what the index says of an utterance in the form of a json member."""
    known = {name: value for name, value in details._asdict().items() if value is not None and name != "audio_start"}
    return msgspec.json.encode(known)


def find_faults(data: memoryview, place: Place, *, suffix: str) -> Iterator[str]:
    """Yield each difference between the two members of an utterance and what the index says they are.

    Args:
        data: From the audio member's tar header to the end of the json member's body.
        place: Where that is, and the checksums.
        suffix: Of the audio member.
    """
    key, audio_offset, audio_bytes, json_offset, json_bytes, audio_crc32, json_crc32, _ = place
    start = audio_offset - BLOCK
    audio_end, json_start = BLOCK + audio_bytes, json_offset - start
    if data[:BLOCK] != tar_header(f"{key}.{suffix}", audio_bytes):
        yield f"tar header at byte {start} is not that of a {audio_bytes}-byte {key}.{suffix}"
    if bytes(data[audio_end : json_start - BLOCK]) != bytes(-audio_bytes % BLOCK):
        yield f"padding at byte {start + audio_end} is not empty"
    if data[json_start - BLOCK : json_start] != tar_header(f"{key}.json", json_bytes):
        yield f"tar header at byte {json_offset - BLOCK} is not that of a {json_bytes}-byte {key}.json"
    if (found := crc32(data[BLOCK:audio_end])) != audio_crc32:
        yield f"audio at byte {audio_offset} has crc32 {found:08x}, the index says {audio_crc32:08x}"
    if (found := crc32(data[json_start : json_start + json_bytes])) != json_crc32:
        yield f"json at byte {json_offset} has crc32 {found:08x}, the index says {json_crc32:08x}"


def raw_utterance(data: memoryview, place: Place, *, path: str, suffix: str) -> RawUtterance:
    """Return an utterance in which `find_faults` found none; arguments as there, and the shard's path."""
    json_start = place.json_offset - place.audio_offset + BLOCK
    return RawUtterance(
        key=place.key,
        path=path,
        suffix=suffix,
        audio=data[BLOCK : BLOCK + place.audio_bytes],
        json=data[json_start : json_start + place.json_bytes],
        num_samples=place.num_samples,
    )


def decode_audio(raw: RawUtterance) -> NDArray[np.int16] | NDArray[np.float32]:
    """Return the samples of an utterance, without copying where they lie as an array.

    Returns:
        int16 from a shard of this package, float32 from a tar that others wrote.

    Raises:
        DatasetError: The member is not what the index says.
    """
    try:
        if raw.decoders:
            return decode_foreign(
                raw.audio, suffix=raw.suffix, decoders=raw.decoders, start=raw.start, num_samples=raw.num_samples
            )
        return decode_member(raw.audio, suffix=raw.suffix, num_samples=raw.num_samples)
    except DatasetError as error:
        raise DatasetError(f"{raw.path}: utterance {raw.key}: {error}") from error


def decode_json(raw: RawUtterance) -> dict[str, Any]:
    """Return the fields of an utterance's json member; the text is that of a view with texts of its own.

    Raises:
        DatasetError: The member is not a JSON object with a text.
    """
    try:
        # Unlike the json module, msgspec refuses halves of surrogate pairs, which cannot be encoded again.
        record = msgspec.json.decode(raw.json, type=dict[str, Any])
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{raw.path}: utterance {raw.key}: json member cannot be parsed ({error})") from error
    for name in ("language", "speaker", "task", "prompt"):
        if not isinstance(record.get(name), str | None):
            raise DatasetError(f"{raw.path}: utterance {raw.key}: {name} in the json member is no text")
    if not isinstance(record.get("text"), str):
        raise DatasetError(f"{raw.path}: utterance {raw.key}: json member has no text")
    return record if raw.text is None else {**record, "text": raw.text}
