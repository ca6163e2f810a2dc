"""Check before a long run that all shards are there, of the size that dataset.json says: one look at each."""

import stat
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from whisper_shard.dataset.description import DATASET_NAME
from whisper_shard.dataset.index import Dataset
from whisper_shard.errors import DatasetError
from whisper_shard.storage.object_store import ObjectStore

_THREADS = 16  # a look is one wait for the disk or the network


def check_shards(datasets: Sequence[Dataset]) -> None:
    """Check that each shard that holds utterances exists and has its size; contents are checked as they are read.

    Raises:
        DatasetError: Shards are missing or of another size; says how many, and names the first.
        EnvironmentFault: The network fails.
        ConfigError: Bucket, credentials or endpoint are wrong.
    """
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="check-shards") as pool:
        for dataset in datasets:
            find_fault = partial(_find_fault, dataset, ObjectStore(dataset.storage))
            used = [number for number, shard in enumerate(dataset.shards) if shard.num_utterances]
            faults = [fault for fault in pool.map(find_fault, used) if fault]
            if faults:
                raise DatasetError(
                    f"{dataset.location}: {len(faults)} of {len(used)} shards cannot be used, the first: {faults[0]}; "
                    "restore it, or prepare the dataset again"
                )


def _find_fault(dataset: Dataset, store: ObjectStore, shard: int) -> str:
    """Return what is wrong with a shard; empty: nothing."""
    location, expected = dataset.shard_location(shard), dataset.shards[shard].num_bytes
    try:
        if location.is_local:
            status = location.path.stat()
            if not stat.S_ISREG(status.st_mode):
                return f"{location} is not a regular file"
            found = status.st_size
        else:
            found = store.head(location).num_bytes
    except FileNotFoundError:
        return f"{location} is missing"
    return "" if found == expected else f"{location} has {found} bytes, {DATASET_NAME} says {expected}"
