"""Chooses how the shards of a dataset are read."""

from collections.abc import Callable, Iterable
from functools import partial

from whisper_shard.config.stream import StreamConfig
from whisper_shard.dataset.index import Dataset
from whisper_shard.dataset.sources.cache import CacheSource, NodeCache, check_room
from whisper_shard.dataset.sources.local import LocalSource
from whisper_shard.dataset.sources.object_store import ObjectStoreSource
from whisper_shard.dataset.sources.protocol import Source
from whisper_shard.storage.location import LOCAL, local_path


def open_sources(config: StreamConfig) -> Callable[[Dataset], Source]:
    """Return what opens the source of a dataset as the settings say; it can be sent to another process."""
    return partial(open_source, cache=_node_cache(config))


def check_sources(datasets: Iterable[Dataset], config: StreamConfig) -> None:
    """Check before the work begins that there is room for the cache, if there is to be one.

    Raises:
        EnvironmentFault: There is none, or its folder cannot be made.
    """
    if cache := _node_cache(config):
        for dataset in datasets:
            check_room(dataset, cache)


def _node_cache(config: StreamConfig) -> NodeCache | None:
    if not config.cache:
        return None
    return NodeCache(folder=local_path(config.cache, what="--cache"), max_bytes=round(config.cache_gb * 1e9))


def open_source(dataset: Dataset, *, cache: NodeCache | None = None) -> Source:
    """Return the source of a dataset's shards, in the process that uses it.

    Raises:
        EnvironmentFault: The folder of the cache cannot be made.
    """
    source = (LocalSource if dataset.shard_scheme == LOCAL else ObjectStoreSource)(dataset)
    return source if cache is None else CacheSource(dataset, source, cache)
