"""What is in a dataset, for a human: totals and histograms, or one utterance with its text, place and level."""

import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from whisper_shard.audio.members import decode_member, encode_wav
from whisper_shard.dataset.index import INDEX_NAME, Dataset, open_dataset
from whisper_shard.errors import DatasetError
from whisper_shard.storage.atomic import atomic_file
from whisper_shard.utterance import SAMPLE_RATE

FULL_SCALE = 32768.0
BAR_TENTHS = (1, 2, 5, 10, 20)
"""Widths that a bar of the duration histogram may have, in tenths of a second: the first that makes few enough bars."""
MAX_BARS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetOverview:
    """A dataset in numbers."""

    folder: Path
    """Where it lies."""
    num_utterances: int
    """Total."""
    hours: float
    """Total."""
    num_shards: int
    """Tars."""
    num_bytes: int
    """Bytes of all tars."""
    codec: str
    """``npy`` or ``flac``."""
    num_chars: int
    """Code points of all texts."""
    seconds_quantiles: Mapping[str, float]
    """``min``, ``median``, ``mean``, ``p95``, ``max`` of the lengths in seconds; empty without utterances."""
    seconds_histogram: tuple[tuple[float, float, int], ...]
    """From the shortest utterances to the longest: where a bar begins and ends, in seconds, and utterances in it."""
    rejects: Mapping[str, int]
    """Rows that were not kept, by reason, largest first."""
    languages: Mapping[str, int]
    """Utterances by language, largest first."""
    speakers: Mapping[str, int]
    """Utterances by speaker, largest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UtteranceView:
    """One utterance, as it lies in its shard."""

    key: str
    """Its name."""
    shard: str
    """Its tar, relative to the dataset."""
    audio_offset: int
    """Byte at which its audio begins in the tar."""
    audio_bytes: int
    """Length of the audio member."""
    text: str
    """What is said."""
    seconds: float
    """Its length."""
    peak_dbfs: float
    """Largest absolute sample, in dB below full scale."""
    rms_dbfs: float
    """Root mean square, in dB below full scale."""
    record: Mapping[str, Any]
    """All of the json member."""
    samples: NDArray[np.int16]
    """The audio, 16 kHz."""


def inspect_dataset(folder: Path) -> DatasetOverview:
    """Count what is in a dataset; reads the index, not the shards.

    Raises:
        DatasetError: No finished dataset there.
    """
    dataset = open_dataset(folder)
    table = pq.read_table(folder / INDEX_NAME, columns=["num_samples", "num_chars", "language", "speaker"])
    num_samples = table.column("num_samples").to_numpy()
    return DatasetOverview(
        folder=folder,
        num_utterances=dataset.num_utterances,
        hours=dataset.num_samples / SAMPLE_RATE / 3600,
        num_shards=len(dataset.shards),
        num_bytes=sum(shard.num_bytes for shard in dataset.shards),
        codec=dataset.meta.get("codec", "npy"),
        num_chars=pc.sum(table.column("num_chars")).as_py() or 0,
        seconds_quantiles=_describe(num_samples / SAMPLE_RATE),
        seconds_histogram=tuple(_count_lengths(num_samples)),
        rejects=dataset.meta.get("rejects", {}),
        languages=_count_values(table.column("language")),
        speakers=_count_values(table.column("speaker")),
    )


def inspect_utterance(folder: Path, key: str) -> UtteranceView:
    """Read one utterance out of its shard.

    Raises:
        DatasetError: No such key, or its bytes are missing or not those that the index promises.
    """
    dataset = open_dataset(folder)
    found = pq.read_table(folder / INDEX_NAME, filters=[("key", "=", key)]).to_pylist()
    if not found:
        raise DatasetError(f"{folder}: no utterance has the key {key!r}{_suggest_keys(dataset, key)}")
    row = found[0]
    try:
        record, samples = _read_members(dataset, row)
    except (FileNotFoundError, ValueError, DatasetError) as error:
        words = "the shard is missing" if isinstance(error, FileNotFoundError) else str(error)
        shard = dataset.shards[row["shard"]].name
        raise DatasetError(
            f"{folder / shard}: utterance {key}: {words}; restore the file or prepare the dataset again"
        ) from error
    scaled = samples.astype(np.float64) / FULL_SCALE
    return UtteranceView(
        key=key,
        shard=dataset.shards[row["shard"]].name,
        audio_offset=row["audio_offset"],
        audio_bytes=row["audio_bytes"],
        text=row["text"],
        seconds=len(samples) / SAMPLE_RATE,
        peak_dbfs=_as_db(float(np.abs(scaled).max(initial=0.0))),
        rms_dbfs=_as_db(float(np.sqrt(np.mean(np.square(scaled))))),
        record=record,
        samples=samples,
    )


def write_wav(view: UtteranceView, path: Path) -> None:
    """Write an utterance as a 16-bit wav file, to be listened to.

    Raises:
        EnvironmentFault: It cannot be written there.
    """
    with atomic_file(path) as file:
        file.write(encode_wav(view.samples))


def _read_members(dataset: Dataset, row: Mapping[str, Any]) -> tuple[dict[str, Any], NDArray[np.int16]]:
    """Return the json member and the samples of an utterance, both compared with the index."""
    bodies = {}
    with dataset.shard_path(row["shard"]).open("rb") as file:
        for kind in ("audio", "json"):
            file.seek(row[f"{kind}_offset"])
            bodies[kind] = file.read(row[f"{kind}_bytes"])
            if (found := zlib.crc32(bodies[kind])) != row[f"{kind}_crc32"]:
                expected = row[f"{kind}_crc32"]
                raise DatasetError(f"{kind} member has crc32 {found:08x}, {INDEX_NAME} says {expected:08x}")
    samples = decode_member(bodies["audio"], suffix=dataset.meta.get("codec", "npy"), num_samples=row["num_samples"])
    return json.loads(bodies["json"]), samples


def _describe(seconds: NDArray[np.float64]) -> dict[str, float]:
    if not len(seconds):
        return {}
    return {
        "min": float(seconds.min()),
        "median": float(np.median(seconds)),
        "mean": float(seconds.mean()),
        "p95": float(np.quantile(seconds, 0.95)),
        "max": float(seconds.max()),
    }


def _count_lengths(num_samples: NDArray[np.int32]) -> Iterator[tuple[float, float, int]]:
    """Yield the bars of a histogram over the lengths there are, each with its ends in seconds."""
    if not len(num_samples):
        return
    tenths = num_samples // (SAMPLE_RATE // 10)  # whole numbers: exactly 0.3 s must not land in the bar below
    first, last = int(tenths.min()), int(tenths.max())
    width = next((w for w in BAR_TENTHS if last // w - first // w < MAX_BARS), BAR_TENTHS[-1])
    for bar, count in enumerate(np.bincount(tenths // width - first // width).tolist(), start=first // width):
        yield bar * width / 10, (bar + 1) * width / 10, count


def _count_values(column: pa.ChunkedArray) -> dict[str, int]:
    counts = {pair["values"]: pair["counts"] for pair in pc.value_counts(column.drop_null()).to_pylist()}
    return dict(sorted(counts.items(), key=_largest_first))


def _largest_first(item: tuple[str, int]) -> tuple[int, str]:
    return -item[1], item[0]


def _suggest_keys(dataset: Dataset, key: str) -> str:
    """Return keys that hold what was asked for, which may be a row number or part of a file's name."""
    part, row = key.lstrip("0") or key, f"{key:0>9}-"
    names = dataset.columns("key")["key"]
    near = [name for name in names if name.startswith(row)] or [name for name in names if part in name][:3]
    return f"; perhaps {', '.join(near)}" if near else ""


def _as_db(amplitude: float) -> float:
    return 20 * float(np.log10(max(amplitude, 1e-9)))
