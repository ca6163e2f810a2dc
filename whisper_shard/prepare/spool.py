"""A manifest is read once and brought into random order on the disk: ten million rows need a few hundred MB of memory.

The manifest goes into an Arrow file, the spool, and each row gets a rank in a random order. The rows are sorted by
rank through buckets on the disk, each small enough to be sorted in memory.
"""

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.errors import ManifestError
from whisper_shard.manifests.manifest import Manifest
from whisper_shard.manifests.rows import MANIFEST_SCHEMA
from whisper_shard.prepare.languages import LanguageCheck
from whisper_shard.prepare.order import RowGroups, RowOrder, order_rows
from whisper_shard.storage.atomic import as_environment_fault
from whisper_shard.storage.location import Location

SAMPLE_ROWS = 64
"""Rows that are prepared in order to estimate the size of an utterance."""
BUCKET_BYTES = 64_000_000
"""Arrow bytes that are sorted in memory at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spool:
    """A manifest as an Arrow file, with a random order of its rows."""

    path: Path
    """Arrow stream of its rows in MANIFEST_SCHEMA, in the order of the manifest."""
    order: RowOrder
    """The random order of the rows."""
    groups: RowGroups
    """Which rows belong together."""
    num_bytes: int
    """Approximate size of the rows in memory."""
    manifest: Manifest
    """What was read."""
    notes: tuple[str, ...] = ()
    """What had to be mended: paths, languages."""

    @property
    def num_rows(self) -> int:
        """Rows of the manifest."""
        return len(self.order.ranks)


def check_manifest(manifest: Manifest) -> None:
    """Read a manifest to its end without keeping anything.

    Raises:
        ManifestError: Unreadable, with a malformed line, or without rows.
    """
    if not sum(len(table) for table in manifest.read()):
        raise _no_row(manifest.path)


def spool_manifest(manifest: Manifest, spool: Path, config: PrepareConfig) -> Spool:
    """Read a manifest once and write it as an Arrow stream.

    Raises:
        ManifestError: Unreadable, with a malformed line, or without rows.
        EnvironmentFault: The spool cannot be written.
    """
    num_rows = num_bytes = 0
    groups, languages = RowGroups(split_by=config.split_by), LanguageCheck()
    try:
        with pa.OSFile(str(spool), "wb") as sink, pa.ipc.new_stream(sink, MANIFEST_SCHEMA) as writer:
            for read in manifest.read():
                table = languages.mend(read)
                writer.write_table(table)
                groups.add(table)
                num_rows += len(table)
                num_bytes += table.nbytes
    except OSError as error:
        raise as_environment_fault(error, spool) from error
    if not num_rows:
        raise _no_row(manifest.path)
    eval_fraction = 0.0 if config.eval_corpus else config.eval_fraction
    order = order_rows(num_rows, groups, seed=config.seed, eval_fraction=eval_fraction)
    notes = (*manifest.repairs(), *languages.notes())
    return Spool(path=spool, order=order, groups=groups, num_bytes=num_bytes, manifest=manifest, notes=notes)


def sample_rows(spool: Spool, count: int = SAMPLE_ROWS) -> pa.Table:
    """Return the first rows of the random order, in the order of the manifest."""
    return pa.concat_tables([table.filter(pa.array(ranks < count)) for table, ranks in _read_spool(spool)])


def first_rows(spool: Spool, count: int) -> pa.Table:
    """Return the first rows of the manifest."""
    tables, missing = [], count
    for table, _ in _read_spool(spool):
        tables.append(table.slice(0, missing))
        missing -= len(tables[-1])
        if not missing:
            break
    return pa.concat_tables(tables)


def sort_into_shards(spool: Spool, path: Path, *, ranks: range, shard_rows: int) -> None:
    """Write the rows with these ranks, sorted by rank, as an Arrow file with one batch per shard.

    Args:
        spool: The manifest.
        path: The Arrow file.
        ranks: Contiguous; the rows of one dataset.
        shard_rows: Rows per shard.
    """
    num_shards = math.ceil(len(ranks) / shard_rows)
    # Shards are not split between buckets, so each bucket, once sorted, is a run of complete shards.
    bucket_shards = max(1, num_shards * BUCKET_BYTES // max(spool.num_bytes, 1))
    buckets = [path.with_suffix(f".bucket{i}") for i in range(math.ceil(num_shards / bucket_shards))]
    _fill_buckets(spool, buckets, ranks=ranks, bucket_rows=shard_rows * bucket_shards)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, MANIFEST_SCHEMA) as writer:
        for bucket in buckets:
            with pa.OSFile(str(bucket), "rb") as source, pa.ipc.open_stream(source) as reader:
                table = reader.read_all().sort_by("rank").drop_columns(["rank"])
            for start in range(0, len(table), shard_rows):
                writer.write_table(table.slice(start, shard_rows).combine_chunks())
            bucket.unlink()
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _read_spool(spool: Spool) -> Iterator[tuple[pa.Table, NDArray[np.int32]]]:
    """Yield the batches of a spool with the ranks of their rows."""
    position = 0
    with pa.OSFile(str(spool.path), "rb") as source, pa.ipc.open_stream(source) as reader:
        for batch in reader:
            yield pa.Table.from_batches([batch]), spool.order.ranks[position : position + len(batch)]
            position += len(batch)


def _fill_buckets(spool: Spool, buckets: Sequence[Path], *, ranks: range, bucket_rows: int) -> None:
    """Write each row to the bucket of its rank, with the rank as a further column."""
    schema = MANIFEST_SCHEMA.append(pa.field("rank", pa.int32()))
    with ExitStack() as stack:
        sinks = [stack.enter_context(pa.OSFile(str(bucket), "wb")) for bucket in buckets]
        writers = [stack.enter_context(pa.ipc.new_stream(sink, schema)) for sink in sinks]
        for table, found in _read_spool(spool):
            inside = (found >= ranks.start) & (found < ranks.stop)
            ranked = table.append_column(schema.field("rank"), pa.array(found)).filter(pa.array(inside))
            _scatter(ranked, (found[inside] - ranks.start) // bucket_rows, writers)


def _scatter(table: pa.Table, buckets: NDArray[np.int32], writers: Sequence[Any]) -> None:
    """Write each row of a table with the writer of its bucket."""
    # Sorted by bucket, the rows of each are one slice: one write per bucket and batch instead of one per row.
    order = np.argsort(buckets, kind="stable")
    table = table.take(pa.array(order))
    edges = np.searchsorted(buckets[order], np.arange(len(writers) + 1))
    for writer, start, end in zip(writers, edges[:-1], edges[1:], strict=True):
        if end > start:
            writer.write_table(table.slice(start, end - start))


def _no_row(path: Path | Location) -> ManifestError:
    return ManifestError(f"{path}: has a header but no row")
