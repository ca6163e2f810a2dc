"""Shards prepared by the workers of a Dask or Ray cluster, through joblib's back ends.

A worker of the cluster gets a few shards at a time, and starts a process for them, which supervises a process of its
own (`part`): so a recording that crashes, hangs or bloats its decoder costs one row there too, and never the worker of
the cluster. What crosses the network is the list of shards and, back, their counts, never audio; recordings and shards
are read and written by the machine that prepares them, from folders that all machines share or from object storage.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from joblib import Parallel, delayed, effective_n_jobs, parallel_config

from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.errors import ConfigError, EnvironmentFault, WhisperShardError
from whisper_shard.prepare.events import Note
from whisper_shard.prepare.shard import ShardResult
from whisper_shard.prepare.task import ShardTask
from whisper_shard.prepare.workers.part import run_part

PARTS_PER_CORE = 4
"""Into how many parts the work of a core is cut: the more, the later a slow core is noticed at the end, and the more
often a process starts."""


def write_in_cluster(tasks: Sequence[ShardTask], config: PrepareConfig) -> Iterator[ShardResult | Note]:
    """Yield the result of every task, in any order, with notes in between.

    Args:
        tasks: Shards to write.
        config: Settings: the engine and its address.

    Raises:
        ConfigError: The engine is not installed.
        EnvironmentFault: The cluster cannot be reached or loses its workers, or a machine fails.
    """
    if not tasks:
        return
    with ENGINES[config.engine](config.engine_address):
        cores = effective_n_jobs(-1)
        count = "1 core" if cores == 1 else f"{cores} cores"
        yield Note(message=f"{config.engine}: {count} at {config.engine_address or 'this machine'}")
        size = math.ceil(len(tasks) / (cores * PARTS_PER_CORE))
        parts = [tasks[start : start + size] for start in range(0, len(tasks), size)]
        for done in _run(parts, config):
            yield from done


def _run(parts: Sequence[Sequence[ShardTask]], config: PrepareConfig) -> Iterator[Sequence[ShardResult | Note]]:
    # Ray's back end cannot yield results as they come.
    how = {"dask": "generator_unordered", "ray": "list"}[config.engine]
    parallel = Parallel(n_jobs=-1, batch_size=1, pre_dispatch="all", return_as=how)
    try:
        yield from parallel(delayed(run_part)(part) for part in parts)
    except WhisperShardError:
        raise
    except Exception as error:  # lost workers and connections: each engine has exceptions of its own for them
        raise EnvironmentFault(
            f"--engine {config.engine}: {' '.join(str(error).split())[:300]}; mend the cluster, and run the same "
            "command again: finished shards are kept"
        ) from error


@contextmanager
def _open_dask(address: str) -> Iterator[None]:
    try:
        from distributed import Client
    except ImportError as error:
        raise ConfigError("--engine dask: is not installed; run: pip install 'whisper-shard[dask]'") from error
    try:
        connect: Any = Client
        client = connect(address, timeout=10, set_as_default=False)
    except (OSError, ValueError) as error:
        raise EnvironmentFault(f"--engine-address {address}: no Dask scheduler answers; is it running?") from error
    with client, parallel_config("dask", client=client, wait_for_workers_timeout=60):
        yield


@contextmanager
def _open_ray(address: str) -> Iterator[None]:
    try:
        import ray
        from ray.util.joblib import register_ray
    except ImportError as error:
        raise ConfigError("--engine ray: is not installed; run: pip install 'whisper-shard[ray]'") from error
    is_ours = not ray.is_initialized()
    if is_ours:
        try:
            ray.init(address=address or None, log_to_driver=False, configure_logging=False, include_dashboard=False)
        except (OSError, RuntimeError, ValueError) as error:
            raise EnvironmentFault(f"--engine-address {address}: no Ray cluster answers ({error})") from error
    register_ray()
    try:
        with parallel_config("ray"):
            yield
    finally:
        if is_ours:
            ray.shutdown()


ENGINES: Mapping[str, Callable[[str], AbstractContextManager[Any]]] = {"dask": _open_dask, "ray": _open_ray}
"""By name, as in ``--engine``: what makes joblib use a cluster."""
