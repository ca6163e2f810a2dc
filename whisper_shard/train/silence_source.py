"""Choose the silence source: the utterance whose trailing silence short windows borrow.

Measured on spoken digits, a source of 0.2 to 0.5 s costs nothing, one of 25 s or more triples the errors, and windows
that borrow nothing have twelve times as many. So it is short for its corpus, but not the shortest, which is the oddest;
it is never longer than any training window, so that window and silence leave no gap; and it is audible, since in
digital silence everything is as loud as its noise floor.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from whisper_shard.config.train import TrainConfig
from whisper_shard.dataset.index import Dataset
from whisper_shard.dataset.reader import decode_audio, open_reader
from whisper_shard.dataset.sources.open import open_source
from whisper_shard.errors import DatasetError, TrainingError
from whisper_shard.model.log_mel import as_float
from whisper_shard.utterance import SAMPLE_RATE

PERCENTILE = 0.01
"""Share of all utterances that are shorter than the first candidate."""
NUM_CANDIDATES = 64
"""Utterances that are tried, each a little longer than the one before."""
MAX_SECONDS = 1.0
"""The source is cropped to this length."""
MIN_LEVEL_DB = -60.0
"""Least root mean square of the source, relative to full scale; quieter ones are passed over."""
_NO_CANDIDATE = np.int32(np.iinfo(np.int32).max)  # in place of the length


@dataclass(frozen=True, slots=True, kw_only=True)
class SilenceSource:
    """A short utterance, cropped."""

    waveform: Tensor
    """(1, S) float32."""
    key: str
    """The utterance's key."""
    dataset: str
    """Its dataset."""

    @property
    def seconds(self) -> float:
        """Length after cropping."""
        return self.waveform.shape[1] / SAMPLE_RATE

    @property
    def fingerprint(self) -> str:
        """Key and digest of the samples: states of silence are equal for equal samples."""
        return f"{self.key} {hashlib.sha256(self.waveform.numpy().tobytes()).hexdigest()[:16]}"


def find_silence_source(datasets: Sequence[Dataset], config: TrainConfig | None = None) -> SilenceSource:
    """Return the silence source of a mix of datasets, the same at every call and on every rank.

    Args:
        datasets: All training data, not empty.
        config: Its shortest window limits the length, ``bad_record = "skip"`` passes over damaged utterances.

    Raises:
        DatasetError: A candidate is damaged; with ``skip``, all of them are.
        TrainingError: All candidates are nearly silent.
    """
    config = config or TrainConfig()
    max_samples = round(min(MAX_SECONDS, config.window.min_window_seconds) * SAMPLE_RATE)
    fault: DatasetError | None = None
    is_readable = False
    for dataset, row in _list_candidates(datasets):
        try:
            source = _read(dataset, row, max_samples)
        except DatasetError as error:
            if config.stream.bad_record == "raise":
                raise
            fault = error
            continue
        if _level_db(source.waveform) >= MIN_LEVEL_DB:
            return source
        is_readable = True
    if fault is not None and not is_readable:
        raise DatasetError(f"all candidates for the silence source are damaged; the last: {fault}")
    raise TrainingError(
        f"{datasets[0].location}: no silence to borrow: the {NUM_CANDIDATES} shortest utterances above the first "
        f"percentile are nearly silent, below {MIN_LEVEL_DB:g} dB of full scale; correct their audio, or train with "
        "--beyond nothing"
    )


def _list_candidates(datasets: Sequence[Dataset]) -> Iterator[tuple[Dataset, int]]:
    """Yield utterances from the first percentile of all lengths upwards; ties in the order of datasets and rows.

    Noise without speech is no candidate.
    """
    columns = [dataset.columns("num_samples", "num_chars") for dataset in datasets]
    lengths = [np.where(c["num_chars"] > 0, c["num_samples"], _NO_CANDIDATE) for c in columns]
    ends = np.cumsum([len(column) for column in lengths])
    joined = np.concatenate(lengths)
    num_spoken = int((joined < _NO_CANDIDATE).sum())
    first = int(PERCENTILE * (num_spoken - 1))
    last = min(first + NUM_CANDIDATES, num_spoken) - 1
    # Partitioned, not sorted: of ten million lengths only these two are needed in order.
    low, high = np.partition(joined, (first, last))[[first, last]]
    rows = np.flatnonzero((joined >= low) & (joined <= high))
    for row in rows[np.argsort(joined[rows], kind="stable")][:NUM_CANDIDATES].tolist():
        place = int(np.searchsorted(ends, row, side="right"))
        yield datasets[place], row - int(ends[place] - len(lengths[place]))


def _read(dataset: Dataset, row: int, max_samples: int) -> SilenceSource:
    with closing(open_reader(dataset, open_source(dataset))) as reader:
        raw = reader.read(row)
        samples = np.array(decode_audio(raw)[:max_samples])  # a copy: the bytes end with the reader
    waveform = as_float(torch.from_numpy(samples))[None]
    return SilenceSource(waveform=waveform, key=raw.key, dataset=str(dataset.location))


def _level_db(waveform: Tensor) -> float:
    """Return the root mean square in dB of full scale."""
    power = float(waveform.double().square().mean()) if waveform.numel() else 0.0
    return 10.0 * float(np.log10(max(power, 1e-20)))
