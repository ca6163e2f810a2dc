"""What an epoch takes from object storage: requests, bytes and dollars, from the plan alone."""

from collections.abc import Sequence
from itertools import islice

import numpy as np

from whisper_shard.bench.report import EpochReads
from whisper_shard.config.tools import BenchConfig
from whisper_shard.dataset.index import Dataset, IndexReader
from whisper_shard.stream.runs import RunSequence
from whisper_shard.stream.timetable import Step, Timetable

_END_MARK = 1024  # bytes at the end of a tar
_MOST_STEPS = 2000  # steps that are looked at; a longer epoch is extrapolated from them


def plan_reads(datasets: Sequence[Dataset], config: BenchConfig) -> EpochReads:
    """Count the runs of an epoch's first steps, and scale them to the epoch.

    Args:
        datasets: What is streamed; not empty.
        config: Loader settings and prices.
    """
    timetable = Timetable(datasets, config.stream)
    start = Step(epoch=0, step=0)
    runs = [run for opened in islice(RunSequence(timetable, start, 1), _MOST_STEPS) for run in opened]
    # Steps of a block that begins within the stretch may lie behind it: the stretch is measured by its runs.
    fetched = sum(run.num_bytes for run in runs)
    used = total = 0.0
    for dataset, weight in zip(datasets, config.stream.weights or (1.0,) * len(datasets), strict=True):
        columns = dataset.columns("audio_bytes", "json_bytes")
        used += weight * int(np.sum(columns["audio_bytes"], dtype=np.int64) + np.sum(columns["json_bytes"]))
        total += weight * _num_bytes_read(dataset)
    scale = max(1.0, total / fetched) if timetable.steps > _MOST_STEPS else 1.0
    gigabytes = scale * fetched / 1e9
    requests = round(scale * len(runs))
    return EpochReads(
        requests=requests,
        gigabytes=gigabytes,
        fetched_over_used=scale * fetched / used,
        dollars=requests / 1000 * config.dollars_per_1000_gets + gigabytes * config.dollars_per_gb,
    )


def _num_bytes_read(dataset: Dataset) -> int:
    """Return the bytes of all utterances with what is read along; of a view, without what it leaves out."""
    if not dataset.description.view:
        return sum(shard.num_bytes - _END_MARK for shard in dataset.shards)
    index = IndexReader(dataset)
    extents = (np.unique(index.extents(number), axis=0) for number in range(len(dataset.shards)))
    return sum(int((each[:, 1] - each[:, 0]).sum()) for each in extents)
