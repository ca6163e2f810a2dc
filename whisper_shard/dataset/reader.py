"""Ids become records: bytes at an offset, each checked against the index before anything looks inside.

A `Source` fetches bytes of shards; `RecordReader` knows where an utterance lies and refuses anything but exactly the
members the index promises: the two tar headers byte for byte, zeros between members, crc32 of both bodies. A tar is
never walked and no size in it is believed.
"""

import json
from bisect import bisect_right
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Any

import numpy as np
from isal.isal_zlib import crc32  # the crc32 of zlib, many times as fast: 3 us instead of 47 an utterance
from numpy.typing import NDArray

from whisper_shard.audio.members import decode_member
from whisper_shard.dataset.index import Dataset, IndexReader
from whisper_shard.dataset.shard import BLOCK, tar_header
from whisper_shard.dataset.sources.local import Source
from whisper_shard.errors import DatasetError

_COLUMNS = (
    "key", "audio_offset", "audio_bytes", "json_offset", "json_bytes", "audio_crc32", "json_crc32", "num_samples",
)  # fmt: skip
_CACHED_SHARDS = 512  # shards whose index rows a reader keeps


@dataclass(frozen=True, slots=True, kw_only=True)
class RawUtterance:
    """An utterance as it lies in the shard, its bytes checked."""

    key: str
    """Its key."""
    path: str
    """The shard's path."""
    suffix: str
    """``npy`` or ``flac``."""
    audio: memoryview
    """Body of the audio member."""
    json: memoryview
    """Body of the json member."""
    num_samples: int
    """What the index says of its length at 16 kHz."""


class RecordReader:
    """Reads utterances of one dataset by their row in the index."""

    def __init__(self, dataset: Dataset, source: Source) -> None:
        self._dataset = dataset
        self._source = source
        self._index = IndexReader(dataset)
        self._paths = [str(dataset.shard_path(shard)) for shard in range(len(dataset.shards))]
        self._ends = list(accumulate(shard.num_utterances for shard in dataset.shards))
        self._rows = lru_cache(_CACHED_SHARDS)(self._read_rows)

    def locate(self, row: int) -> tuple[int, int]:
        """Return (shard, row within the shard) of a row of the whole index."""
        shard = bisect_right(self._ends, row)
        return shard, row - self._ends[shard] + self._dataset.shards[shard].num_utterances

    def key(self, row: int) -> str:
        """Return the key of a row of the whole index."""
        shard, place = self.locate(row)
        return str(self._rows(shard)[place][0])

    def read(self, row: int) -> RawUtterance:
        """Read an utterance with one request and check every byte of it.

        Raises:
            DatasetError: Damaged or missing; names shard, key and offset.
        """
        shard, place = self.locate(row)
        key, audio_at, audio_bytes, json_at, json_bytes, audio_crc32, json_crc32, num_samples = self._rows(shard)[place]
        start = audio_at - BLOCK
        data = memoryview(self._source.read(shard, start, json_at + json_bytes - start))
        audio, text = data[BLOCK : BLOCK + audio_bytes], data[json_at - start :]
        between = bytes(data[BLOCK + audio_bytes : json_at - start])
        suffix = "flac" if bytes(data[len(key) + 1 : len(key) + 6]) == b"flac\0" else "npy"
        if data[:BLOCK] != tar_header(f"{key}.{suffix}", audio_bytes):
            fault = f"tar header at byte {start} is not that of a {audio_bytes}-byte {key}.{suffix}"
        elif between != bytes(-audio_bytes % BLOCK) + tar_header(f"{key}.json", json_bytes):
            fault = f"tar header at byte {json_at - BLOCK} is not that of a {json_bytes}-byte {key}.json"
        elif (found := crc32(audio)) != audio_crc32:
            fault = f"audio at byte {audio_at} has crc32 {found:08x}, the index says {audio_crc32:08x}"
        elif (found := crc32(text)) != json_crc32:
            fault = f"json at byte {json_at} has crc32 {found:08x}, the index says {json_crc32:08x}"
        else:
            path = self._paths[shard]
            return RawUtterance(key=key, path=path, suffix=suffix, audio=audio, json=text, num_samples=num_samples)
        raise DatasetError(
            f"{self._dataset.shard_path(shard)}: utterance {key}: {fault}; restore the shard or prepare it again"
        )

    def close(self) -> None:
        """Close the source."""
        self._source.close()

    def _read_rows(self, shard: int) -> list[tuple[Any, ...]]:
        columns = self._index.rows(shard, *_COLUMNS)
        rows = list(zip(*columns.values(), strict=True))
        size = self._dataset.shards[shard].num_bytes
        for key, audio_at, audio_bytes, json_at, json_bytes, *_ in rows:
            follows = audio_at + audio_bytes + -audio_bytes % BLOCK + BLOCK
            if not (audio_at >= BLOCK and audio_bytes >= 0 <= json_bytes and json_at == follows <= size - json_bytes):
                raise DatasetError(
                    f"{self._dataset.folder}: the index places {key} at bytes {audio_at} to {json_at + json_bytes} of "
                    f"a shard of {size} bytes, which cannot be; prepare the dataset again"
                )
        return rows


def decode_audio(raw: RawUtterance) -> NDArray[np.int16]:
    """Return the samples of an utterance, without copying where they lie as an array.

    Raises:
        DatasetError: The member is not what the index says.
    """
    try:
        return decode_member(raw.audio, suffix=raw.suffix, num_samples=raw.num_samples)
    except DatasetError as error:
        raise DatasetError(f"{raw.path}: utterance {raw.key}: {error}") from error


def decode_json(raw: RawUtterance) -> dict[str, Any]:
    """Return what is known of an utterance.

    Raises:
        DatasetError: The member is not a JSON object with a text.
    """
    try:
        value = json.loads(bytes(raw.json))
        text = value["text"]
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{raw.path}: utterance {raw.key}: json member cannot be parsed ({error!r})") from error
    if not isinstance(text, str):
        raise DatasetError(f"{raw.path}: utterance {raw.key}: json member has no text but {text!r}")
    return dict(value)
