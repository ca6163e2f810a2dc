"""Search and sort the utterances of a dataset by the columns of its index, and cut what is found into pages."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from whisper_shard.dataset.index import Dataset
from whisper_shard.dataset.schema import QUALITY_SCHEMA
from whisper_shard.utterance import SAMPLE_RATE

PAGE_ROWS = 50
"""Utterances of a page."""
SEARCHED = ("text", "key", "speaker", "language", "source")
"""Columns in which a text is searched."""
_COLUMNS = (*SEARCHED, "num_samples", "num_chars", *QUALITY_SCHEMA.names)
_CACHED_ORDERS = 8  # 8 bytes an utterance each: turning the pages neither searches nor sorts again


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What is shown, and in which order."""

    text: str = ""
    """Part of one of the columns SEARCHED, in any case; empty: all utterances."""
    sort: str = ""
    """Column; empty, or one that does not exist: the order of the index."""
    is_descending: bool = False
    """Largest first; utterances without a value are last in any case."""
    page: int = 0
    """From 0; one after the last is the last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundPage:
    """One page of what was found."""

    rows: list[dict[str, Any]]
    """Columns of the utterances, and ``position``, their row in the index."""
    num_found: int
    """Utterances on all pages."""
    page: int
    """Number of this one, from 0."""
    num_pages: int
    """Pages, at least 1."""


class UtteranceTable:
    """The columns of an index in memory: about 200 bytes an utterance."""

    def __init__(self, dataset: Dataset) -> None:
        """Read the index.

        Raises:
            DatasetError: It is damaged.
        """
        with dataset.open_index() as index:
            names = [name for name in _COLUMNS if name in index.schema.names]
            empty = pa.schema([index.schema.field(name) for name in names]).empty_table()
        self._table = _with_rates(pa.concat_tables([empty, *dataset.pieces(*names)]))
        self._order = lru_cache(_CACHED_ORDERS)(self._find_order)

    @property
    def sort_columns(self) -> tuple[str, ...]:
        """Columns that can be sorted by."""
        return tuple(name for name in self._table.column_names if name not in ("num_samples", "num_chars"))

    def find(self, query: Query) -> FoundPage:
        """Return a page of what is found."""
        sort = query.sort if query.sort in self.sort_columns else ""
        order = self._order(query.text, sort, query.is_descending)
        num_pages = max(-(-len(order) // PAGE_ROWS), 1)
        page = min(max(query.page, 0), num_pages - 1)
        places = order[page * PAGE_ROWS : (page + 1) * PAGE_ROWS]
        rows = self._table.take(pa.array(places)).to_pylist()
        found = [{**row, "position": place} for row, place in zip(rows, places.tolist(), strict=True)]
        return FoundPage(rows=found, num_found=len(order), page=page, num_pages=num_pages)

    def _find_order(self, text: str, sort: str, is_descending: bool) -> NDArray[np.int64]:
        """Return the rows of the index that are found, in their order."""
        places = np.arange(len(self._table))
        if text:
            masks = [
                pc.match_substring(self._table[name], text, ignore_case=True).fill_null(False) for name in SEARCHED
            ]
            places = np.flatnonzero(np.logical_or.reduce([mask.to_numpy() for mask in masks]))
        if not sort:
            return places[::-1] if is_descending else places
        column = self._table[sort].take(pa.array(places))
        order = "descending" if is_descending else "ascending"
        ranks = pc.array_sort_indices(column, order=order, null_placement="at_end")
        ordered: NDArray[np.int64] = places[ranks.to_numpy()]
        return ordered


def _with_rates(table: pa.Table) -> pa.Table:
    """Return a table with the columns ``seconds`` and, where it was not measured, ``chars_per_second``."""
    seconds = pc.divide(table["num_samples"].cast(pa.float64()), float(SAMPLE_RATE))
    table = table.append_column("seconds", seconds)
    if "chars_per_second" not in table.column_names:
        rate = pc.divide(table["num_chars"].cast(pa.float64()), pc.max_element_wise(seconds, 1 / SAMPLE_RATE))
        table = table.append_column("chars_per_second", rate)
    return table
