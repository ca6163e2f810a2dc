"""Views: some of the utterances of a dataset, as an index of their own over the same shards.

A view is dataset.json, index.parquet and lengths.arrow, and no audio. It names the shards of its dataset by a path or
URL and pins the sha256 of the dataset's dataset.json. A view of a view refers to the dataset that both come from.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from whisper_shard.dataset.columns import check_name, join_columns
from whisper_shard.dataset.description import (
    DATASET_NAME,
    INDEX_NAME,
    LENGTHS_NAME,
    VIEW_VERSION,
    Description,
    LinkedShard,
    has_description,
    locate_base,
    name_from,
    read_description,
    read_description_bytes,
)
from whisper_shard.dataset.expressions import Clause, evaluate, names_in, parse_condition
from whisper_shard.dataset.index import Dataset, open_dataset
from whisper_shard.dataset.schema import LENGTHS_SCHEMA, QUALITY_SCHEMA
from whisper_shard.dataset.writer import write_description, write_index
from whisper_shard.errors import ConfigError, DatasetError
from whisper_shard.storage.atomic import as_environment_fault
from whisper_shard.storage.location import Location, parse_location
from whisper_shard.storage.object_store import ObjectStore
from whisper_shard.storage.stores import StorageConfig
from whisper_shard.utterance import SAMPLE_RATE

PARTS = ("train", "eval")
"""Datasets in the output folder of `prepare`, of each of which a view is made."""
_COPIED = ("codec", "empty_texts", "order", "split", "versions")
"""Fields of dataset.json that hold for a view as well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewMade:
    """A view that has been written."""

    dataset: Location
    """What it was made of."""
    view: Location
    """Where it lies."""
    num_utterances: int
    """Utterances kept."""
    num_samples: int
    """Samples kept, at 16 kHz."""
    num_utterances_before: int
    """Utterances of the dataset."""
    num_samples_before: int
    """Samples of the dataset."""
    dropped: Mapping[str, int]
    """Utterances dropped, by the first clause that did not hold; of a missing value, ``... (no value)``."""


def filter_dataset(
    dataset: Location | Path | str,
    view: Location | Path | str,
    where: str = "",
    *,
    relabel: str = "",
    storage: StorageConfig | None = None,
) -> tuple[ViewMade, ...]:
    """Make a view of the utterances that meet a condition; of each part, where a folder has ``train`` and ``eval``.

    Args:
        dataset: A dataset or a view, or the output of `prepare`; a local path or a URL.
        view: Where to write; an older view there is replaced.
        where: The condition; see docs/quality.md. It may be empty with ``relabel``.
        relabel: Columns beside the dataset whose hypotheses become the texts; utterances without one are dropped.
        storage: How object storage is reached; None is as the environment says.

    Raises:
        ConfigError: The condition cannot be used, or the view cannot refer to the dataset from where it is to lie.
        DatasetError: No finished dataset there, something else than a view where it is to be written, or no utterance
            meets the condition.
        EnvironmentFault: The disk or the network fails.
    """
    storage = storage or StorageConfig()
    source, target = parse_location(dataset), parse_location(view)
    selection = _parse_selection(where, relabel)
    store = ObjectStore(storage)
    parts = [part for part in PARTS if has_description(source.join(part), store)]
    if has_description(source, store) or not parts:
        pairs = [(source, target)]
    else:
        pairs = [(source.join(part), target.join(part)) for part in parts]
    opened = [_join(open_dataset(folder, storage=storage), selection) for folder, _ in pairs]
    # Everything that can be wrong with the condition or the places is found before anything is written.
    for joined, (_, folder) in zip(opened, pairs, strict=True):
        _check_target(joined.data, folder, store)
        _check_condition(joined, selection)
    masks = [_find_kept(joined, selection.clauses) for joined in opened]
    for joined, (mask, _) in zip(opened, masks, strict=True):
        if not mask.any():
            given = f"--where {where!r}" if where.strip() else f"--relabel {relabel}"
            raise DatasetError(f"{joined.data.location}: none of {len(mask):,} utterances meet {given}")
    return tuple(
        _write_view(joined, folder, selection=selection, mask=mask, dropped=dropped, store=store)
        for joined, (_, folder), (mask, dropped) in zip(opened, pairs, masks, strict=True)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Selection:
    """What a view is to hold."""

    texts: tuple[str, ...]
    """The conditions, as dataset.json keeps them."""
    clauses: tuple[Clause, ...]
    """All of them, in parts."""
    relabel: str
    """Columns whose hypotheses become the texts; empty: none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Joined:
    """A dataset with the columns beside it that the condition names."""

    data: Dataset
    """The dataset."""
    beside: Mapping[str, Any]
    """Columns by their name in the condition, one value for each utterance."""
    digests: Mapping[str, str]
    """Digests of their tables."""

    def slice(self, start: int, length: int) -> dict[str, Any]:
        """Return the columns beside some of the utterances."""
        return {name: values.slice(start, length) for name, values in self.beside.items()}


def _parse_selection(where: str, relabel: str) -> _Selection:
    texts: tuple[str, ...] = (where.strip(),) if where.strip() or not relabel else ()
    if relabel:
        check_name(relabel, "--relabel")
        texts += (f"len({relabel}.hypothesis) > 0",)
    clauses = tuple(clause for text in texts for clause in parse_condition(text))
    return _Selection(texts=texts, clauses=clauses, relabel=relabel)


def _join(data: Dataset, selection: _Selection) -> _Joined:
    """Join the columns that the conditions name."""
    names: dict[str, list[str]] = {}
    for name in sorted(names_in(selection.clauses)):
        prefix, dot, column = name.partition(".")
        if dot:
            names.setdefault(prefix, []).append(column)
    beside: dict[str, Any] = {}
    digests: dict[str, str] = {}
    for prefix, columns in names.items():
        info, table = join_columns(data, prefix, columns)
        beside |= {f"{prefix}.{column}": table.column(column) for column in table.column_names}
        digests[prefix] = info.sha256
    return _Joined(data=data, beside=beside, digests=digests)


def _check_target(data: Dataset, folder: Location, store: ObjectStore) -> None:
    """Check that a view can be written there without losing anything else.

    Raises:
        DatasetError: A dataset that is no view is there, or the one that the view is to be made of.
        ConfigError: From there the shards cannot be reached.
    """
    name_from(folder, locate_base(data.location, data.description))
    if folder == data.location or (folder.is_local and folder.path.resolve() == _resolved(data.location)):
        raise DatasetError(f"{folder}: a view cannot replace the dataset it is made of; choose another folder")
    if has_description(folder, store) and read_description(folder, store=store).view is None:
        raise DatasetError(f"{folder}: holds a dataset, which a view would replace; choose another folder")


def _resolved(location: Location) -> Path | None:
    return location.path.resolve() if location.is_local else None


def _schema(data: Dataset) -> pa.Schema:
    with data.open_index() as index:
        return index.schema


def _columns_of(table: pa.Table) -> dict[str, Any]:
    """Return the columns that a condition can name: those of the index, and what follows from them.

    The speaking rate follows from the lengths, so that datasets without quality have it, too.
    """
    columns = {name: table.column(name) for name in table.column_names}
    columns["seconds"] = pc.divide(columns["num_samples"].cast(pa.float64()), float(SAMPLE_RATE))
    if "chars_per_second" not in columns:
        columns["chars_per_second"] = pc.divide(columns["num_chars"].cast(pa.float64()), columns["seconds"])
    return columns


def _check_condition(joined: _Joined, selection: _Selection) -> None:
    """Check that all columns are there and all types fit.

    Raises:
        ConfigError: One is missing, does not exist, or does not fit.
    """
    data = joined.data
    columns = _columns_of(_schema(data).empty_table()) | joined.slice(0, 0)
    missing = [name for name in QUALITY_SCHEMA.names if name not in columns]
    if wanted := sorted(names_in(selection.clauses) & set(missing)):
        raise ConfigError(
            f"--where: {data.location} has no column {wanted[0]}: it was prepared with --no-quality, or before that "
            f"was measured; missing are {', '.join(missing)}; prepare it again"
        )
    for clause in selection.clauses:
        evaluate(clause, columns)


def _find_kept(joined: _Joined, clauses: Sequence[Clause]) -> tuple[np.ndarray[Any, np.dtype[np.bool_]], Counter[str]]:
    """Return which utterances meet all clauses, and how many were dropped by each."""
    dropped: Counter[str] = Counter({clause.text: 0 for clause in clauses})
    masks, data, position = [np.empty(0, bool)], joined.data, 0
    names = {*LENGTHS_SCHEMA.names, *names_in(clauses)} & set(_schema(data).names)
    for table in data.pieces(*sorted(names)):
        columns = _columns_of(table) | joined.slice(position, len(table))
        position += len(table)
        kept = np.ones(len(table), bool)
        for clause in clauses:
            found = evaluate(clause, columns)
            holds = pc.fill_null(found, fill_value=False).to_numpy(zero_copy_only=False)
            is_null = pc.is_null(found).to_numpy(zero_copy_only=False)
            dropped[clause.text] += int((kept & ~holds & ~is_null).sum())
            if num_null := int((kept & is_null).sum()):
                dropped[f"{clause.text} (no value)"] += num_null
            kept &= holds
        masks.append(kept)
    return np.concatenate(masks), +dropped


def _write_view(
    joined: _Joined,
    folder: Location,
    *,
    selection: _Selection,
    mask: np.ndarray[Any, np.dtype[np.bool_]],
    dropped: Mapping[str, int],
    store: ObjectStore,
) -> ViewMade:
    shards, data = list[LinkedShard](), joined.data
    with TemporaryDirectory(prefix="whisper-shard-view-") as temporary:
        work = folder.path if folder.is_local else Path(temporary)
        try:
            work.mkdir(parents=True, exist_ok=True)
            # Until the new description is written there is no view, rather than a mixture of two.
            (work / DATASET_NAME).unlink(missing_ok=True)
        except OSError as error:
            raise as_environment_fault(error, work) from error
        tables = _kept_tables(joined, folder, mask, shards, relabel=selection.relabel)
        index = write_index(work, tables, schema=_schema(data))
        write_description(work, shards=shards, index=index, meta=_describe(joined, folder, selection, dropped, store))
        if not folder.is_local:
            for name in (INDEX_NAME, LENGTHS_NAME, DATASET_NAME):
                store.put(folder.join(name), work / name)
    return ViewMade(
        dataset=data.location,
        view=folder,
        num_utterances=index.totals.num_utterances,
        num_samples=index.totals.num_samples,
        num_utterances_before=data.num_utterances,
        num_samples_before=data.num_samples,
        dropped=dropped,
    )


def _kept_tables(
    joined: _Joined,
    folder: Location,
    mask: np.ndarray[Any, np.dtype[np.bool_]],
    shards: list[LinkedShard],
    *,
    relabel: str,
) -> Iterator[pa.Table]:
    """Yield the kept rows of each shard that has any, renumbered; list these shards on the way."""
    position, data = 0, joined.data
    schema = _schema(data)
    for piece in data.pieces(*schema.names):
        table = piece
        if relabel:
            table = _relabel(piece, joined.slice(position, len(piece))[f"{relabel}.hypothesis"])
        kept = table.filter(pa.array(mask[position : position + len(table)]))
        position += len(table)
        numbers = kept.column("shard").to_numpy()
        edges = np.flatnonzero(np.diff(numbers)) + 1
        for rows in np.split(np.arange(len(kept)), edges) if len(kept) else ():
            part = kept.slice(int(rows[0]), len(rows))
            own = {
                "shard": pa.array(np.full(len(rows), len(shards), np.int32)),
                "row": pa.array(np.arange(len(rows), dtype=np.int32)),
            }
            yield pa.table([own.get(name, part.column(name)) for name in schema.names], schema=schema)
            shards.append(_link_shard(data, int(numbers[rows[0]]), folder, len(rows)))


def _relabel(table: pa.Table, texts: Any) -> pa.Table:
    """Replace the texts, and what follows from them."""
    num_chars = pc.utf8_length(texts).cast(pa.int32())
    seconds = pc.divide(table.column("num_samples").cast(pa.float64()), float(SAMPLE_RATE))
    values = {"text": texts, "num_chars": num_chars, "chars_per_second": pc.divide(num_chars, seconds)}
    own = [values.get(field.name, table.column(field.name)).cast(field.type) for field in table.schema]
    return pa.table(own, names=table.column_names)


def _link_shard(data: Dataset, number: int, folder: Location, num_utterances: int) -> LinkedShard:
    info = data.shards[number]
    name = name_from(folder, data.shard_location(number))
    return LinkedShard(name=name, num_bytes=info.num_bytes, sha256=info.sha256, num_utterances=num_utterances)


def _describe(
    joined: _Joined, folder: Location, selection: _Selection, dropped: Mapping[str, int], store: ObjectStore
) -> dict[str, Any]:
    """Return what dataset.json of a view says besides shards, index and totals."""
    data = joined.data
    description: Description = data.description
    base = locate_base(data.location, description)
    content = json.loads(read_description_bytes(data.location, store))
    before = description.view
    sha256 = before.sha256 if before else hashlib.sha256(read_description_bytes(base, store)).hexdigest()
    view = {
        "dataset": name_from(folder, base),
        "sha256": sha256,
        "where": [*(before.where if before else ()), *selection.texts],
        "dropped": dict(Counter(before.dropped if before else {}) + Counter(dropped)),
        "columns": {**(before.columns if before else {}), **joined.digests},
        "relabeled_by": selection.relabel or (before.relabeled_by if before else ""),
    }
    foreign = {"foreign": asdict(description.foreign)} if description.foreign else {}
    copied = {name: content[name] for name in _COPIED if name in content}
    return {**copied, **foreign, "format_version": VIEW_VERSION, "view": view}
