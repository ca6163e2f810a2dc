"""Describe a dataset for a human: totals and histograms, or one utterance with its text, place and level."""

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whisper_shard.audio.members import encode_wav
from whisper_shard.audio.samples import to_float32, to_int16
from whisper_shard.dataset.columns import ColumnsInfo, list_columns
from whisper_shard.dataset.description import INDEX_NAME, View
from whisper_shard.dataset.index import Dataset, open_dataset
from whisper_shard.dataset.index_file import reading
from whisper_shard.dataset.reader import decode_audio, decode_json, open_reader
from whisper_shard.dataset.search import find_key
from whisper_shard.dataset.sources.open import open_source
from whisper_shard.dataset.statistics import Statistics, needed_columns
from whisper_shard.errors import DatasetError
from whisper_shard.storage.atomic import atomic_file
from whisper_shard.storage.location import Location
from whisper_shard.utterance import SAMPLE_RATE


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetOverview:
    """A dataset in numbers."""

    location: Location
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
    """``npy`` or ``flac``; the suffixes of the audio members of tars that others wrote."""
    seconds_quantiles: Mapping[str, float]
    """``min``, ``median``, ``mean``, ``p95``, ``max`` of the lengths in seconds; empty without utterances."""
    rejects: Mapping[str, int]
    """Rows that were not kept, by reason, largest first."""
    statistics: Statistics
    """Histograms, extremes, and counts by language and speaker."""
    view: View | None = None
    """What it is a view of; None: it is no view."""
    columns: tuple[tuple[ColumnsInfo, bool], ...] = ()
    """Columns beside it, each with whether it belongs to the dataset as it is now."""


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
    """All of the json member; of a tar that others wrote, what the index says."""
    samples: NDArray[np.int16]
    """The audio, 16 kHz."""


def inspect_dataset(folder: Path | str) -> DatasetOverview:
    """Count what is in a dataset; reads the index, not the shards.

    Raises:
        DatasetError: No finished dataset there, or its index is damaged.
    """
    dataset = open_dataset(folder)
    lengths = dataset.columns("num_samples", "num_chars")
    statistics = Statistics()
    with dataset.open_index() as index:
        names = needed_columns(index.schema)
    for piece in dataset.pieces(*names):
        with reading(dataset.folder / INDEX_NAME):
            statistics.add(piece)
    return DatasetOverview(
        location=dataset.location,
        num_utterances=dataset.num_utterances,
        hours=dataset.num_samples / SAMPLE_RATE / 3600,
        num_shards=len(dataset.shards),
        num_bytes=sum(shard.num_bytes for shard in dataset.shards),
        codec=_describe_codec(dataset),
        seconds_quantiles=_describe(lengths["num_samples"] / SAMPLE_RATE),
        rejects=_largest_first(dataset.description.rejects),
        statistics=statistics,
        view=dataset.description.view,
        columns=tuple(list_columns(dataset)),
    )


def inspect_utterance(folder: Path | str, key: str) -> UtteranceView:
    """Read one utterance out of its shard.

    Raises:
        DatasetError: No such key, or its bytes are missing or not those that the index promises.
    """
    dataset = open_dataset(folder)
    row = find_key(dataset, key)
    if row is None:
        raise DatasetError(f"{dataset.location}: no utterance has the key {key!r}{_suggest_keys(dataset, key)}")
    with closing(open_reader(dataset, open_source(dataset))) as reader:
        shard, place = reader.index.find(row)
        raw = reader.read(row)
    waveform, record = to_float32(decode_audio(raw)), decode_json(raw)
    scaled = waveform.astype(np.float64)
    return UtteranceView(
        key=key,
        shard=dataset.shards[shard].name,
        audio_offset=place.audio_offset,
        audio_bytes=place.audio_bytes,
        text=record["text"],
        seconds=len(waveform) / SAMPLE_RATE,
        peak_dbfs=_as_db(float(np.abs(scaled).max(initial=0.0))),
        rms_dbfs=_as_db(float(np.sqrt(np.mean(np.square(scaled))))),
        record=record,
        samples=to_int16(waveform),
    )


def write_wav(view: UtteranceView, path: Path) -> None:
    """Write an utterance as a 16-bit wav file, for listening.

    Raises:
        EnvironmentFault: It cannot be written there.
    """
    with atomic_file(path) as file:
        file.write(encode_wav(view.samples))


def _describe_codec(dataset: Dataset) -> str:
    foreign = dataset.description.foreign
    return ", ".join(foreign.suffixes) if foreign else dataset.description.codec


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


def _largest_first(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _suggest_keys(dataset: Dataset, key: str) -> str:
    """Return keys that contain the one given, which may be a row number or part of a file's name."""
    part, row = key.lstrip("0") or key, f"{key:0>9}-"
    names = dataset.columns("key")["key"]
    near = [name for name in names if name.startswith(row)] or [name for name in names if part in name][:3]
    return f"; perhaps {', '.join(near)}" if near else ""


def _as_db(amplitude: float) -> float:
    return 20 * float(np.log10(max(amplitude, 1e-9)))
