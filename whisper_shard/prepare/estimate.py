"""What a run would do: the size of the plan, and a few recordings prepared in the workers, with nothing kept."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from whisper_shard.audio.members import ENCODERS
from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.prepare.events import SplitSize
from whisper_shard.prepare.make_plan import (
    ROW_OVERHEAD_BYTES,
    choose_shard_rows,
    mean_bytes,
    open_manifests,
    prepare_sample,
    split_ranks,
)
from whisper_shard.prepare.output import OutputFolder
from whisper_shard.prepare.pipeline import build_pipeline
from whisper_shard.prepare.probe import RowProbe
from whisper_shard.prepare.samples import describe_texts
from whisper_shard.prepare.split import describe_split
from whisper_shard.prepare.spool import first_rows, sample_rows, spool_manifest
from whisper_shard.prepare.workers.pool import count_jobs, open_workers
from whisper_shard.storage.location import Location
from whisper_shard.storage.object_store import ObjectStore
from whisper_shard.storage.stores import StorageConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a run would do, found out without writing anything."""

    num_rows: int
    """Rows of all manifests."""
    splits: Mapping[str, SplitSize]
    """Rows and shards of each dataset."""
    shard_rows: int
    """Rows per shard."""
    hours: float
    """Estimated length of the utterances that will be kept."""
    num_bytes: Mapping[str, int]
    """Estimated bytes of all shards, for each codec."""
    first: tuple[RowProbe, ...]
    """Results of the first rows of the manifest, in order."""
    sampled: tuple[RowProbe, ...]
    """Results of the rows drawn for the estimate."""
    folder: str
    """To which relative paths are relative."""
    notes: tuple[str, ...]
    """What was assumed about the manifests."""


def estimate_corpus(
    corpus: Location | Path | str, config: PrepareConfig, *, num_first: int = 50, storage: StorageConfig | None = None
) -> Estimate:
    """Plan a run and prepare a few recordings as it would, without keeping anything.

    Args:
        corpus: The manifest.
        config: Settings.
        num_first: Rows from the beginning of the manifest that are prepared.
        storage: How object storage is reached.

    Raises:
        ManifestError: The manifest cannot be used.
        ConfigError: A filter or decoder that does not exist.
        EnvironmentFault: The machine or the network failed.
    """
    build_pipeline(config)
    store = ObjectStore(storage or StorageConfig())
    with TemporaryDirectory(prefix="whisper-shard-") as temporary:
        output = OutputFolder(path=Path(temporary))
        spools = {
            name: spool_manifest(manifest, output.path / f"{name}.spool", config)
            for name, manifest in open_manifests(corpus, config, copies=output.path / "corpus", store=store).items()
        }
        train = spools["train"]
        folder = train.manifest.folder
        texts = tuple(describe_texts(sample_rows(train), config))
        num_rows = sum(spool.num_rows for spool in spools.values())
        config = replace(config, jobs=count_jobs(config, num_rows))
        with open_workers(output, config) as workers:
            sampled, _ = prepare_sample(sample_rows(train), folder, workers, config, store=store)
            first, _ = prepare_sample(first_rows(train, num_first), folder, workers, config, store=store)
    shard_rows = choose_shard_rows(train.num_rows, mean_bytes(sampled, config.codec), config.shard_mb)
    sizes = {name: len(ranks) for name, ranks in split_ranks(spools).items()}
    return Estimate(
        num_rows=num_rows,
        splits={name: SplitSize(num_rows=n, num_shards=math.ceil(n / shard_rows)) for name, n in sizes.items()},
        shard_rows=shard_rows,
        hours=sum(probe.seconds for probe in sampled) / len(sampled) * num_rows / 3600,
        num_bytes={codec: estimate_bytes(sampled, codec, num_rows) for codec in ENCODERS},
        first=tuple(first),
        sampled=tuple(sampled),
        folder=str(folder.absolute() if isinstance(folder, Path) else folder),
        notes=(
            *(note for s in spools.values() for note in (*s.manifest.notes, *s.notes)),
            *describe_split(spools, asked=config.eval_fraction),
            *texts,
        ),
    )


def estimate_bytes(sampled: Sequence[RowProbe], codec: str, num_rows: int) -> int:
    """Return the expected size of all shards of ``num_rows`` manifest rows."""
    share_kept = sum(probe.rejection is None for probe in sampled) / len(sampled)
    return round((mean_bytes(sampled, codec) + share_kept * ROW_OVERHEAD_BYTES) * num_rows)
