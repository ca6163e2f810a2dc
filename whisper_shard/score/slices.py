"""Slices: the error rate of the utterances that share a property, for any column of the index and those beside it.

A column of numbers is cut at edges: stated ones, else its quartiles. An interval from a few utterances is itself a
guess, so that small slices are marked.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from whisper_shard.config.score import SliceColumn
from whisper_shard.dataset.columns import join_columns
from whisper_shard.dataset.index import Dataset
from whisper_shard.errors import ConfigError, suggest
from whisper_shard.score.alignment import ErrorCounts
from whisper_shard.score.bootstrap import bootstrap_interval
from whisper_shard.score.evaluation import Evaluation
from whisper_shard.utterance import SAMPLE_RATE

SMALL_UTTERANCES = 30
"""A slice with fewer utterances is marked as small."""
MAX_SLICES = 1_000
"""Slices by one column; the values with the fewest utterances are joined to one more."""
SECONDS_EDGES = (1.0, 2.0, 5.0, 10.0, 20.0)
"""Edges of the slices by duration, unless others are stated or all utterances are in one of these slices."""
DEFAULT_COLUMNS = ("seconds", "speaker", "language", "snr_db")
"""Columns of the slices, unless others are stated; those with one value only are left out."""
NO_VALUE = "no value"
"""Name of the slice of the utterances that have none."""
UNITS = {
    "seconds": "s",
    "num_chars": "characters",
    "chars_per_second": "characters/s",
    "rms_db": "dB",
    "snr_db": "dB",
    "bandwidth_hz": "Hz",
}
"""Units of columns of numbers."""
_DERIVED = {"seconds": ("num_samples",), "chars_per_second": ("num_chars", "num_samples"), "source": ("source",)}
_PARTS = ("offset", "bytes", "crc32")
_HIDDEN = {"key", "row", "audio_start", *(f"{member}_{part}" for member in ("audio", "json") for part in _PARTS)}
_COUNTS = ("substitutions", "deletions", "insertions", "num_reference")


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """The score of the utterances that share a property."""

    kind: str
    """The column."""
    name: str
    """Its value, or the range of its values."""
    is_ordered: bool
    """Whether the slices of this kind are ranges, in their order."""
    num_utterances: int
    """Number of utterances."""
    seconds: float
    """Seconds of audio in them."""
    words: ErrorCounts
    """Errors in words."""
    chars: ErrorCounts
    """Errors in characters."""
    interval: tuple[float, float]
    """WER that 95 % of resampled corpora lie between."""

    @property
    def is_small(self) -> bool:
        """Whether its error rate should not be relied on."""
        return self.num_utterances < SMALL_UTTERANCES


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceNames:
    """The slice that each utterance of a dataset belongs to, by one column."""

    kind: str
    """The column."""
    by_key: pd.Series
    """Name of the slice of each utterance, by its key; a categorical in the order of the slices."""
    is_ordered: bool
    """Whether the slices are ranges of numbers."""


def read_slices(data: Dataset, wanted: Sequence[SliceColumn]) -> list[SliceNames]:
    """Read the columns by which a score is cut into slices.

    Args:
        data: The dataset.
        wanted: Columns, and the edges of numbers; empty: those of DEFAULT_COLUMNS that the index has.

    Raises:
        ConfigError: A column does not exist or its values cannot be cut like this.
        DatasetError: The index, or a table beside it, is damaged.
    """
    with data.open_index() as index:
        known = [name for name in index.schema.names if name not in _HIDDEN]
    known += [name for name in _DERIVED if name not in known]
    chosen = wanted or [SliceColumn(column=name) for name in DEFAULT_COLUMNS if name in known]
    if not data.num_utterances:
        return []
    keys = _read(data, "key").to_pylist()
    return [_cut(each, _find_values(data, each.column, known), keys) for each in chosen]


def _find_values(data: Dataset, column: str, known: Sequence[str]) -> pa.Array:
    name, dot, beside = column.partition(".")
    if dot:
        _, table = join_columns(data, name, [beside])
        if not table.column_names:
            raise ConfigError(f"--by {column}: the columns {name} have no {beside}; they are listed in docs/quality.md")
        return table.column(0).combine_chunks()
    if column not in known:
        hint = suggest(column, known) or f"; there are {', '.join(known)}"
        raise ConfigError(f"--by {column}: {data.location} has no such column{hint}")
    if column == "seconds":
        return pc.divide(_read(data, "num_samples").cast(pa.float64()), float(SAMPLE_RATE))
    if column == "source":
        return pa.array(name_sources(_read(data, "source").to_pylist()))
    with data.open_index() as index:
        is_stored = column in index.schema.names
    if not is_stored:  # the speaking rate follows from the lengths
        seconds = pc.divide(_read(data, "num_samples").cast(pa.float64()), float(SAMPLE_RATE))
        return pc.divide(_read(data, "num_chars").cast(pa.float64()), seconds)
    return _read(data, column)


def _read(data: Dataset, name: str) -> pa.Array:
    return pa.chunked_array(
        [chunk for piece in data.pieces(name) for chunk in piece.column(name).chunks]
    ).combine_chunks()


def name_sources(paths: Sequence[str]) -> list[str]:
    """Return the first folder in which the paths of recordings differ: mostly the corpus, or a part of it.

    Args:
        paths: As the manifest gave them.
    """
    folders = [path.replace("\\", "/").split("/")[:-1] for path in paths]
    shortest, longest = min(folders), max(folders)  # all others lie between these two, and share what they share
    depth = next((i for i, (a, b) in enumerate(zip(shortest, longest, strict=False)) if a != b), None)
    if depth is None:
        depth = min(len(shortest), len(longest))
    return [folder[depth] if len(folder) > depth else "." for folder in folders]


def _cut(wanted: SliceColumn, values: pa.Array, keys: Sequence[str]) -> SliceNames:
    kind = values.type
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
    if wanted.edges and not is_number:
        raise ConfigError(f"--by {wanted.column}: its values are no numbers, leave out the edges")
    if is_number:
        numbers = values.to_numpy(zero_copy_only=False).astype(np.float64)
        names = _cut_numbers(numbers, wanted)
    else:
        names = _cut_names(values, wanted.column)
    return SliceNames(kind=wanted.column, by_key=pd.Series(names, index=list(keys)), is_ordered=is_number)


def _cut_numbers(numbers: Any, wanted: SliceColumn) -> Any:
    edges = list(wanted.edges or _choose_edges(numbers, wanted.column))
    unit = f" {UNITS[wanted.column]}" if wanted.column in UNITS else ""
    inner = [f"{low:,g} to {high:,g}{unit}" for low, high in pairwise(edges)]
    labels = [f"below {edges[0]:,g}{unit}", *inner, f"{edges[-1]:,g}{unit} and more"] if edges else ["all"]
    codes = np.searchsorted(edges, numbers, side="right")
    codes[np.isnan(numbers)] = len(labels)
    return pd.Categorical.from_codes(codes, categories=pd.Index([*labels, NO_VALUE]), ordered=True)


def _choose_edges(numbers: Any, column: str) -> Sequence[float]:
    if column == "seconds" and len(set(np.searchsorted(SECONDS_EDGES, numbers, side="right"))) > 1:
        return SECONDS_EDGES
    return _quartiles(numbers)


def _quartiles(numbers: Any) -> list[float]:
    known = numbers[np.isfinite(numbers)]
    if not len(known):
        return []
    # Rounded, so that the names of the slices can be read.
    rounded = {float(f"{value:.3g}") for value in np.quantile(known, [0.25, 0.5, 0.75])}
    return sorted(edge for edge in rounded if known.min() < edge <= known.max())


def _cut_names(values: pa.Array, column: str) -> Any:
    if pa.types.is_boolean(values.type):
        values = pc.if_else(values, "yes", "no")
    names = pd.Series(values.to_pylist(), dtype=object).fillna(NO_VALUE).replace("", NO_VALUE)
    sizes = names.value_counts()
    if len(sizes) == len(names) > MAX_SLICES:
        raise ConfigError(f"--by {column}: each of {len(names):,} utterances has a value of its own")
    if len(sizes) > MAX_SLICES:
        others = f"{len(sizes) - MAX_SLICES:,} other values"
        names = names.where(names.isin(sizes.index[:MAX_SLICES]), others)
    found = sorted(set(names) - {NO_VALUE})
    return pd.Categorical(names, categories=[*found, NO_VALUE], ordered=True)


def slice_scores(evaluation: Evaluation, columns: Sequence[SliceNames]) -> list[Slice]:
    """Return the score of each slice; a column with a single value makes none."""
    table = _utterance_table(evaluation)
    found: list[Slice] = []
    for column in columns:
        names = column.by_key.reindex(table.index)
        groups = table.groupby(names, sort=True, observed=True)
        if groups.ngroups > 1:
            found += [_slice(column, str(name), rows) for name, rows in groups]
    return found


def find_unsliced(slices: Sequence[Slice], wanted: Sequence[SliceColumn]) -> Iterator[str]:
    """Yield a line about each wanted column that has a single value."""
    kinds = {part.kind for part in slices}
    for each in wanted:
        if each.column not in kinds:
            yield f"--by {each.column}: all utterances are in one slice, so none is shown"


def _utterance_table(evaluation: Evaluation) -> pd.DataFrame:
    """Return one row for each utterance, by its key: its errors in words and characters, and its seconds."""
    scores = evaluation.score.utterances
    words = pd.DataFrame([asdict(row.words) for row in scores], columns=list(_COUNTS))
    chars = pd.DataFrame([asdict(row.chars) for row in scores], columns=list(_COUNTS)).add_prefix("char_")
    table = pd.concat([words, chars], axis=1)
    table["seconds"] = [row.seconds for row in evaluation.utterances]
    table.index = pd.Index([row.key for row in scores])
    return table


def _slice(column: SliceNames, name: str, rows: pd.DataFrame) -> Slice:
    errors = rows["substitutions"] + rows["deletions"] + rows["insertions"]
    sums = {str(count): int(value) for count, value in rows.drop(columns="seconds").sum().items()}
    return Slice(
        kind=column.kind,
        name=name,
        is_ordered=column.is_ordered,
        num_utterances=len(rows),
        seconds=float(rows["seconds"].sum()),
        words=ErrorCounts(**{count: sums[count] for count in _COUNTS}),
        chars=ErrorCounts(**{count: sums[f"char_{count}"] for count in _COUNTS}),
        interval=bootstrap_interval(errors, rows["num_reference"]),
    )
