"""The plan: which manifest row goes into which shard. Made once, kept on the disk, never held in memory as objects.

The manifest is read once into an Arrow spool. Each row draws a random word; their order is the order of the corpus
from then on. The first rows of it are the evaluation set, the rest is the training set, and each is cut into shards
of equal numbers of rows. The rows are brought into that order through buckets on the disk, each small enough to be
sorted in memory, so ten million rows need a few hundred MB. A split's plan is an Arrow file with one batch a shard.

The words are the raw output of Philox, which NumPy keeps stable between versions.
"""

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.errors import ManifestError, StateError
from whisper_shard.prepare.events import StepObserver, named_steps
from whisper_shard.prepare.manifests.formats import read_manifest
from whisper_shard.prepare.manifests.rows import MANIFEST_SCHEMA
from whisper_shard.storage.atomic import as_environment_fault, sha256_of_file, sync_folder, write_json

OUTPUT_VERSION = 2
"""Raise it with any change to the files of a plan or the bytes of a shard: what another version began is started over,
so that no dataset is a mixture."""
PLAN_NAME = "plan.json"
RUN_KNOBS = ("jobs", "decode_timeout_seconds", "worker_memory_mb", "max_reject_fraction", "rebuild", "dry_run")
"""Knobs that do not decide what is written; all others do."""
SAMPLE_ROWS = 64
"""Rows that are prepared to learn how large an utterance is."""
MIN_SHARDS = 16
"""A corpus too small for this many full shards is cut into this many all the same, so that all cores have work ..."""
MIN_SHARD_ROWS = 32
"""... but not into shards of fewer rows than this."""
ROW_OVERHEAD_BYTES = 2_048
"""Two tar headers, the json member, and padding."""
BUCKET_BYTES = 64_000_000
"""Arrow bytes that are sorted in memory at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spool:
    """A manifest, read once."""

    path: Path
    """Arrow stream of its rows in MANIFEST_SCHEMA."""
    num_rows: int
    """Rows in it."""
    num_bytes: int
    """Arrow bytes in memory, roughly."""
    sha256: str
    """Of the manifest file."""
    corpus: Path
    """Folder against which its paths are resolved."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitPlan:
    """The rows of one dataset, in order, cut into shards."""

    name: str
    """``train`` or ``eval``."""
    rows: Path
    """Arrow file, one batch a shard."""
    corpus: Path
    """Folder against which the manifest's paths are resolved."""
    num_rows: int
    """Manifest rows."""
    num_shards: int
    """Shards."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All that decides what will be written."""

    fingerprint: str
    """sha256 over configuration, manifests, split and shard size."""
    splits: tuple[SplitPlan, ...]
    """``train`` first."""

    @property
    def num_rows(self) -> int:
        """Rows of all splits."""
        return sum(split.num_rows for split in self.splits)


def check_manifest(path: Path, config: PrepareConfig) -> None:
    """Read a manifest to its end and keep nothing.

    Raises:
        ManifestError: Missing, not text, without the columns, with a stray quote, or without a single row.
    """
    if not sum(len(table) for table in read_manifest(path, config)):
        raise _no_row(path)


def spool_manifest(path: Path, spool: Path, config: PrepareConfig) -> Spool:
    """Read a manifest once, into an Arrow stream on the disk.

    Raises:
        ManifestError: Missing, not text, without the columns, or without a single row.
        EnvironmentFault: The spool cannot be written.
    """
    tables = read_manifest(path, config)
    num_rows = num_bytes = 0
    try:
        with pa.OSFile(str(spool), "wb") as sink, pa.ipc.new_stream(sink, MANIFEST_SCHEMA) as writer:
            for table in tables:
                writer.write_table(table)
                num_rows += len(table)
                num_bytes += table.nbytes
    except OSError as error:
        raise as_environment_fault(error, spool) from error
    if not num_rows:
        raise _no_row(path)
    return Spool(path=spool, num_rows=num_rows, num_bytes=num_bytes, sha256=sha256_of_file(path), corpus=path.parent)


def rank_rows(num_rows: int, seed: int) -> NDArray[np.int32]:
    """Return each row's place in the random order of the corpus, shape (num_rows,)."""
    words = np.random.Philox(key=seed).random_raw(num_rows)
    ranks = np.empty(num_rows, np.int32)
    ranks[np.argsort(words, kind="stable")] = np.arange(num_rows, dtype=np.int32)
    return ranks


def sample_rows(spool: Spool, ranks: NDArray[np.int32], count: int = SAMPLE_ROWS) -> pa.Table:
    """Return the rows that come first in the random order, in the order of the manifest."""
    return pa.concat_tables([table.filter(pa.array(found < count)) for table, found in _ranked(spool, ranks)])


def first_rows(spool: Spool, count: int) -> pa.Table:
    """Return the first rows of the manifest."""
    tables, missing = [], count
    for table, _ in _ranked(spool, np.zeros(spool.num_rows, np.int32)):
        tables.append(table.slice(0, missing))
        missing -= len(tables[-1])
        if not missing:
            break
    return pa.concat_tables(tables)


def choose_shard_rows(num_rows: int, mean_bytes: float, shard_mb: int) -> int:
    """Return rows a shard: as many as fill ``shard_mb``, but few enough for MIN_SHARDS shards."""
    by_size = max(1, int(shard_mb * 1e6 / (mean_bytes + ROW_OVERHEAD_BYTES)))
    by_count = max(MIN_SHARD_ROWS, math.ceil(num_rows / MIN_SHARDS))
    return _round_down(min(by_size, by_count))


def split_ranks(num_rows: Mapping[str, int], eval_fraction: float) -> dict[str, tuple[int, int]]:
    """Return which ranks go into each dataset, as half-open ranges.

    Args:
        num_rows: Rows of the manifest of each split; without ``eval``, that set is taken off ``train``.
        eval_fraction: Its share; at least one row stays for training.
    """
    if "eval" in num_rows:
        return {name: (0, count) for name, count in num_rows.items()}
    num_train = num_rows["train"]
    num_eval = min(math.ceil(num_train * eval_fraction), num_train - 1)
    return {"train": (num_eval, num_train), **({"eval": (0, num_eval)} if num_eval else {})}


def write_plan(
    folder: Path,
    spools: Mapping[str, Spool],
    ranks: Mapping[str, NDArray[np.int32]],
    *,
    config: PrepareConfig,
    shard_rows: int,
    on_step: StepObserver,
) -> Plan:
    """Sort the spools into shards and write plan.json last: from now on there is a plan.

    Args:
        folder: Where the plan lies.
        spools: ``train``, and ``eval`` where it has a manifest of its own.
        ranks: The order of each spool.
        config: Knobs.
        shard_rows: Rows a shard.
        on_step: Told of commit steps.
    """
    sizes = split_ranks({name: spool.num_rows for name, spool in spools.items()}, config.eval_fraction)
    for name, (first, last) in sizes.items():
        source = name if name in spools else "train"
        try:
            _sort_into_shards(
                spools[source],
                ranks[source],
                first=first,
                last=last,
                shard_rows=shard_rows,
                path=_rows_path(folder, name),
            )
        except OSError as error:
            raise as_environment_fault(error, folder) from error
    sync_folder(folder)
    content = {
        "version": OUTPUT_VERSION,
        "config": deciding_knobs(config),
        "manifests": {name: {"sha256": spool.sha256, "num_rows": spool.num_rows} for name, spool in spools.items()},
        "shard_rows": shard_rows,
        "splits": {name: {"num_rows": last - first} for name, (first, last) in sizes.items()},
    }
    write_json(folder / PLAN_NAME, content, on_step=named_steps("plan", on_step))
    return _as_plan(folder, content, {name: spools.get(name, spools["train"]).corpus for name in sizes})


def open_plan(folder: Path, out: Path, corpora: Mapping[str, Path], config: PrepareConfig) -> Plan | None:
    """Return the plan of an earlier run into the same folder, or None where there is none of this OUTPUT_VERSION.

    Args:
        folder: Where the plan lies.
        out: The output folder, for errors.
        corpora: The manifests of this run, by split.
        config: The knobs of this run.

    Raises:
        StateError: It was made with other knobs (each named with both values) or from another manifest.
        ManifestError: A manifest is gone.
    """
    try:
        content = json.loads((folder / PLAN_NAME).read_bytes())
        old, manifests, splits = content["config"], content["manifests"], content["splits"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StateError(f"{folder / PLAN_NAME}: damaged ({error!r}); give --rebuild to prepare all again") from error
    cure = "choose another output folder, or give --rebuild to prepare all again"
    new = deciding_knobs(config)
    changes = [
        f"{name} was {_show(old.get(name))}, is {_show(new.get(name))}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]
    if changes:
        raise StateError(f"{out}: belongs to another configuration: {'; '.join(changes)}; {cure}")
    for name, path in corpora.items():
        if (found := sha256_of_file(path)) != manifests[name]["sha256"]:
            raise StateError(
                f"{out}: was made from another manifest: {path} had sha256 {manifests[name]['sha256'][:12]}, "
                f"has {found[:12]} (rows added, changed or reordered); {cure}"
            )
    if content.get("version") != OUTPUT_VERSION:
        return None
    return _as_plan(folder, content, {name: corpora.get(name, corpora["train"]).parent for name in splits})


def deciding_knobs(config: PrepareConfig) -> dict[str, Any]:
    """Return the knobs that decide what is written, as JSON knows them."""
    knobs = {name: value for name, value in asdict(config).items() if name not in RUN_KNOBS}
    knobs["eval_corpus"] = bool(config.eval_corpus)  # where it lies does not matter, what is in it does
    known: dict[str, Any] = json.loads(json.dumps(knobs))
    return known


def read_shard_rows(rows: Path, shard: int) -> pa.Table:
    """Return the manifest rows of one shard, from the Arrow file of a split's plan."""
    with pa.ipc.open_file(str(rows)) as reader:
        return pa.Table.from_batches([reader.get_batch(shard)])


def _as_plan(folder: Path, content: Mapping[str, Any], corpora: Mapping[str, Path]) -> Plan:
    splits = tuple(
        SplitPlan(
            name=name,
            rows=_rows_path(folder, name),
            corpus=corpora[name],
            num_rows=content["splits"][name]["num_rows"],
            num_shards=math.ceil(content["splits"][name]["num_rows"] / content["shard_rows"]),
        )
        for name in sorted(content["splits"], reverse=True)
    )
    fingerprint = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return Plan(fingerprint=fingerprint, splits=splits)


def _no_row(path: Path) -> ManifestError:
    return ManifestError(f"{path}: has a header but no row")


def _rows_path(folder: Path, name: str) -> Path:
    return folder / f"{name}.arrow"


def _ranked(spool: Spool, ranks: NDArray[np.int32]) -> Iterator[tuple[pa.Table, NDArray[np.int32]]]:
    """Yield the batches of a spool with the ranks of their rows."""
    position = 0
    with pa.OSFile(str(spool.path), "rb") as source, pa.ipc.open_stream(source) as reader:
        for batch in reader:
            yield pa.Table.from_batches([batch]), ranks[position : position + len(batch)]
            position += len(batch)


def _sort_into_shards(
    spool: Spool, ranks: NDArray[np.int32], *, first: int, last: int, shard_rows: int, path: Path
) -> None:
    """Write the rows whose rank lies in [first, last), in that order, one batch a shard."""
    num_shards = math.ceil((last - first) / shard_rows)
    bucket_shards = max(1, num_shards * BUCKET_BYTES // max(spool.num_bytes, 1))
    buckets = [path.with_suffix(f".bucket{i}") for i in range(math.ceil(num_shards / bucket_shards))]
    schema = MANIFEST_SCHEMA.append(pa.field("rank", pa.int32()))
    with ExitStack() as stack:
        writers = [
            stack.enter_context(pa.ipc.new_stream(stack.enter_context(pa.OSFile(str(b), "wb")), schema))
            for b in buckets
        ]
        for table, found in _ranked(spool, ranks):
            inside = (found >= first) & (found < last)
            ranked = table.append_column(schema.field("rank"), pa.array(found)).filter(pa.array(inside))
            _scatter(ranked, (found[inside] - first) // (shard_rows * bucket_shards), writers)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, MANIFEST_SCHEMA) as writer:
        for bucket in buckets:
            with pa.OSFile(str(bucket), "rb") as source, pa.ipc.open_stream(source) as reader:
                table = reader.read_all().sort_by("rank").drop_columns(["rank"]).combine_chunks()
            for start in range(0, len(table), shard_rows):
                writer.write_table(table.slice(start, shard_rows).combine_chunks())
            bucket.unlink()
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _scatter(table: pa.Table, buckets: NDArray[np.int32], writers: Sequence[Any]) -> None:
    order = np.argsort(buckets, kind="stable")
    table = table.take(pa.array(order))
    edges = np.searchsorted(buckets[order], np.arange(len(writers) + 1))
    for writer, start, end in zip(writers, edges[:-1], edges[1:], strict=True):
        if end > start:
            writer.write_table(table.slice(start, end - start))


def _round_down(count: int) -> int:
    """Keep two significant digits, so that the number can be remembered."""
    unit: int = 10 ** max(len(str(count)) - 2, 0)
    return count // unit * unit


def _show(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
