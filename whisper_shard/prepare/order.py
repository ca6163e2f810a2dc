"""The random order of a manifest's rows, from which evaluation set and shards are cut.

Rows of independent recordings are in plain random order. Segments of one recording lie together, in the order in which
they are spoken, so that it is decoded once for all of them; the evaluation set then holds whole recordings. Rows whose
audio lies in the same block of a Parquet file lie together within each set, since a block has to be read as a whole.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
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
    """Which rows of a manifest belong together, collected while it is read."""

    recordings: list[NDArray[np.int64]] = field(default_factory=list)
    """A hash of each row's recording; equal ones belong together, and no order depends on its value."""
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
        files = pc.coalesce(table["file"], table["source"]).to_pylist()
        self.recordings.append(np.fromiter(map(hash, files), np.int64, len(files)))
        self.blocks.append(table["block"].fill_null(-1).to_numpy())
        self.starts.append(table["start_seconds"].fill_null(0.0).to_numpy())
        self.has_blocks |= table["block"].null_count < len(table)
        self.has_segments |= any(table[name].null_count < len(table) for name in ("start_seconds", "end_seconds"))


def order_rows(num_rows: int, groups: RowGroups, *, seed: int, eval_fraction: float) -> RowOrder:
    """Return the order of the rows, and how many of them are the evaluation set.

    Args:
        num_rows: Rows of the manifest.
        groups: Which of them belong together.
        seed: Of the order.
        eval_fraction: Share of rows for the evaluation set; at least one row stays for training.

    Raises:
        ManifestError: All rows are segments of one recording, and an evaluation set is asked for.
    """
    ranks = rank_rows(num_rows, seed)
    num_eval = min(math.ceil(num_rows * eval_fraction), num_rows - 1)
    if groups.has_segments:
        together = np.concatenate(groups.blocks if groups.has_blocks else groups.recordings)
        ranks, borders = _gather(ranks, together, np.concatenate(groups.starts))
        return RowOrder(ranks=ranks, num_eval=_nearest_border(borders, num_eval, num_rows) if num_eval else 0)
    if groups.has_blocks:
        # The sets are drawn row by row; within each, a block is read once.
        together = np.concatenate(groups.blocks) * 2 + (ranks >= num_eval)
        ranks, _ = _gather(ranks, together, np.zeros(num_rows))
    return RowOrder(ranks=ranks, num_eval=num_eval)


def rank_rows(num_rows: int, seed: int) -> NDArray[np.int32]:
    """Return the place of each row in a random order, shape (num_rows,)."""
    # Raw words of Philox: NumPy guarantees them between versions, unlike Generator.permutation. The order of every
    # dataset depends on it. A stable sort makes the order well defined even if two rows draw the same word.
    words = np.random.Philox(key=seed).random_raw(num_rows)
    ranks = np.empty(num_rows, np.int32)
    ranks[np.argsort(words, kind="stable")] = np.arange(num_rows, dtype=np.int32)
    return ranks


def _gather(
    ranks: NDArray[np.int32], groups: NDArray[Any], starts: NDArray[np.float64]
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return ranks with the rows of each group side by side, sorted by start, and the ranks at which groups begin.

    Groups are ordered by the first of their rows in the random order, so that they are in random order themselves.
    """
    _, members = np.unique(groups, return_inverse=True)
    first = np.full(members.max() + 1, len(ranks), np.int32)
    np.minimum.at(first, members, ranks)
    keys = first[members]
    order = np.lexsort((np.arange(len(ranks)), starts, keys))
    gathered = np.empty_like(ranks)
    gathered[order] = np.arange(len(ranks), dtype=np.int32)
    return gathered, np.flatnonzero(np.diff(keys[order])) + 1


def _nearest_border(borders: NDArray[np.int64], num_eval: int, num_rows: int) -> int:
    if not len(borders):
        raise ManifestError(
            f"all {num_rows} rows are segments of one recording, so no evaluation set can be split off without parts "
            "of it on both sides; name another recording with --eval-corpus, or give --eval-fraction 0"
        )
    return int(borders[np.abs(borders - num_eval).argmin()])
