"""The random order of a manifest's rows, from which evaluation set and shards are cut.

Rows of independent recordings are in plain random order. Segments of one recording lie together, in the order in which
they are spoken, so that it is decoded once for all of them. Rows whose audio lies in the same block of a Parquet file
lie together within each set, since a block has to be read as a whole.

The evaluation set holds whole recordings, and with ``--split-by`` whole speakers, or whole values of another column.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.random import Philox  # imported at the start: Ctrl-C is lost while numpy loads it
from numpy.typing import NDArray

from whisper_shard.errors import ManifestError


@dataclass(frozen=True, slots=True, kw_only=True)
class RowOrder:
    """A random order of all rows of a manifest."""

    ranks: NDArray[np.int32]
    """Place of each row in the order, shape (num_rows,)."""
    num_eval: int
    """Rows at the beginning of the order that are the evaluation set, where it is split off."""


@dataclass(slots=True, kw_only=True)
class RowGroups:
    """Which rows of a manifest belong together, collected while it is read.

    Names are kept as hashes: equal ones belong together, and no order depends on their values.
    """

    split_by: str = ""
    """What must not be on both sides of the split: ``speaker``, ``recording`` or another column; empty: recordings."""
    recordings: list[NDArray[np.int64]] = field(default_factory=list)
    """Each row's recording."""
    speakers: list[NDArray[np.int64]] = field(default_factory=list)
    """Each row's speaker; 0 where it has none."""
    values: list[NDArray[np.int64]] = field(default_factory=list)
    """Each row's value of the column `split_by`, where that is another one; 0 where it has none."""
    blocks: list[NDArray[np.int64]] = field(default_factory=list)
    """Each row's block of a Parquet file, or -1."""
    starts: list[NDArray[np.float64]] = field(default_factory=list)
    """Where each row's utterance begins in its recording, in seconds; 0 where it is the whole."""
    has_blocks: bool = False
    """Whether any row lies in a block."""
    has_segments: bool = False
    """Whether any row is a part of its recording."""

    def add(self, table: pa.Table) -> None:
        """Add rows, given as a table in MANIFEST_SCHEMA."""
        self.recordings.append(_hash_all(pc.coalesce(table["file"], table["source"]).to_pylist()))
        self.speakers.append(_hash_all(table["speaker"].to_pylist()))
        if self.split_by not in ("", "speaker", "recording"):
            self.values.append(_hash_all(_read_column(table, self.split_by)))
        self.blocks.append(table["block"].fill_null(-1).to_numpy())
        self.starts.append(table["start_seconds"].fill_null(0.0).to_numpy())
        self.has_blocks |= table["block"].null_count < len(table)
        self.has_segments |= any(table[name].null_count < len(table) for name in ("start_seconds", "end_seconds"))

    def undivided(self) -> NDArray[np.int64] | None:
        """Return a number for each row, equal for rows that must be in the same set; None if rows are independent.

        Raises:
            ManifestError: No row has a value of the column `split_by`.
        """
        keys = self._recordings()
        if self.split_by in ("", "recording"):
            return keys
        values = np.concatenate(self.speakers if self.split_by == "speaker" else self.values)
        if not values.any():
            raise ManifestError(
                f"--split-by {self.split_by}: no row of the manifest has a value in a column of that name; "
                "give speaker, recording or the name of a column"
            )
        return values if keys is None else _join(values, keys)

    def _recordings(self) -> NDArray[np.int64] | None:
        if self.has_blocks:  # embedded recordings have no names that could be relied on
            return np.concatenate(self.blocks) if self.has_segments else None
        recordings = np.concatenate(self.recordings)
        # Whole recordings that occur twice are kept on one side, too, unless there is nothing else.
        is_repeated = 1 < len(np.unique(recordings)) < len(recordings)
        return recordings if self.has_segments or is_repeated else None

    def read_together(self) -> NDArray[np.int64] | None:
        """Return a number for each row, equal for rows that are cheap to read one after the other; None for no such."""
        if self.has_blocks:
            return np.concatenate(self.blocks)
        return np.concatenate(self.recordings) if self.has_segments else None


def order_rows(num_rows: int, groups: RowGroups, *, seed: int, eval_fraction: float) -> RowOrder:
    """Return the order of the rows, and how many of them are the evaluation set.

    Args:
        num_rows: Rows of the manifest.
        groups: Which of them belong together.
        seed: Of the order.
        eval_fraction: Share of rows for the evaluation set, met as well as whole groups allow; at least one row, or
            group, stays for training.

    Raises:
        ManifestError: All rows belong together, and an evaluation set is asked for.
    """
    ranks = rank_rows(num_rows, seed)
    num_eval = min(math.ceil(num_rows * eval_fraction), num_rows - 1)
    keys = groups.undivided() if num_eval else None
    is_eval = ranks < num_eval if keys is None else _choose_groups(keys, ranks, num_eval, groups.split_by)
    together = groups.read_together()
    # Where rows are read together, those of one block that are in different sets are not.
    members = np.arange(num_rows) if together is None else np.unique(together, return_inverse=True)[1] * 2 + is_eval
    starts = np.concatenate(groups.starts) if groups.has_segments else np.zeros(num_rows)
    first = np.full(members.max() + 1, num_rows, np.int32)
    np.minimum.at(first, members, ranks)
    # Groups are ordered by the first of their rows in the random order, so that they are in random order themselves.
    order = np.lexsort((np.arange(num_rows), starts, first[members], ~is_eval))
    ordered = np.empty_like(ranks)
    ordered[order] = np.arange(num_rows, dtype=np.int32)
    return RowOrder(ranks=ordered, num_eval=int(is_eval.sum()))


def rank_rows(num_rows: int, seed: int) -> NDArray[np.int32]:
    """Return the place of each row in a random order, shape (num_rows,)."""
    # Raw words of Philox: NumPy guarantees them between versions, unlike Generator.permutation. The order of every
    # dataset depends on it. A stable sort makes the order well defined even if two rows draw the same word.
    words = Philox(key=seed).random_raw(num_rows)
    ranks = np.empty(num_rows, np.int32)
    ranks[np.argsort(words, kind="stable")] = np.arange(num_rows, dtype=np.int32)
    return ranks


def _choose_groups(keys: NDArray[np.int64], ranks: NDArray[np.int32], wanted: int, split_by: str) -> NDArray[np.bool_]:
    """Return which rows are the evaluation set: whole groups, with about as many rows as are wanted."""
    _, members, sizes = np.unique(keys, return_inverse=True, return_counts=True)
    if len(sizes) == 1:
        what = f"have the same {split_by}" if split_by else "are of one recording"
        raise ManifestError(
            f"all {len(keys)} rows {what}, or are connected by it, so no evaluation set can be split off without parts "
            "of it on both sides; name other recordings with --eval-corpus, or give --eval-fraction 0"
        )
    first = np.full(len(sizes), len(ranks), np.int32)
    np.minimum.at(first, members, ranks)
    chosen = np.zeros(len(sizes), bool)
    missing = wanted
    for group in np.argsort(first):  # in random order: take each that brings the number of rows nearer
        if abs(missing - sizes[group]) < missing:
            chosen[group] = True
            missing -= int(sizes[group])
        if missing <= 0:
            break
    if not chosen.any():  # all are more than twice as large
        chosen[first == first[sizes == sizes.min()].min()] = True
    if chosen.all():
        chosen[first.argmax()] = False
    return chosen[members]


def _join(left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return a number for each row, equal for rows that are connected: by one array, by the other, or by a chain."""
    sides = [np.unique(side, return_inverse=True)[1] for side in (left, right)]
    labels = np.arange(len(left))
    while True:
        before = labels
        for members in sides:
            least = np.full(members.max() + 1, len(left))
            np.minimum.at(least, members, labels)
            labels = least[members]
        if np.array_equal(labels, before):
            return labels


def _hash_all(names: Sequence[object]) -> NDArray[np.int64]:
    """Return a hash of each name, 0 for one that is missing."""
    return np.fromiter((0 if name in (None, "") else hash(name) for name in names), np.int64, len(names))


def _read_column(table: pa.Table, name: str) -> list[object]:
    """Return a column of a manifest, or one of those that are carried along."""
    if name in ("language", "task", "transcript", "channel"):
        return list(table[name].to_pylist())
    return [json.loads(extra).get(name) if extra else None for extra in table["extra"].to_pylist()]
