"""Statistics of a dataset, collected from its index piece by piece: histograms, extremes, and counts by name.

`prepare` shows them in report.html and `inspect` on the terminal. They stay small however large the dataset is.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from whisper_shard.dataset.schema import IndexRow
from whisper_shard.utterance import SAMPLE_RATE

MAX_NAMES = 100_000
"""Languages, and speakers, that are counted one by one."""
NUM_EXAMPLES = 3
"""Utterances that are shown of each ranking."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """A number of each utterance whose distribution is counted."""

    title: str
    """What it is, as a heading."""
    column: str
    """Column of the index."""
    unit: str
    """Unit on the axis."""
    bin_width: float
    """Width of a bin, in that unit."""
    column_bin: float
    """The same in the unit of the column."""
    first_bin: int
    """Number of the first bin; bin 0 begins at 0. Smaller values are counted in the first."""
    num_bins: int
    """Larger values are counted in the last."""


MEASURES = (
    Measure(
        title="Duration",
        column="num_samples",
        unit="seconds",
        bin_width=0.1,
        column_bin=SAMPLE_RATE // 10,
        first_bin=0,
        num_bins=300,
    ),
    Measure(
        title="Length of the transcript",
        column="num_chars",
        unit="characters",
        bin_width=1,
        column_bin=1,
        first_bin=0,
        num_bins=4_000,
    ),
    Measure(
        title="Speaking rate",
        column="chars_per_second",
        unit="characters per second",
        bin_width=0.5,
        column_bin=0.5,
        first_bin=0,
        num_bins=200,
    ),
    Measure(
        title="Level",
        column="rms_db",
        unit="RMS, dB below full scale",
        bin_width=1,
        column_bin=1,
        first_bin=-100,
        num_bins=101,
    ),
    Measure(
        title="Signal-to-noise ratio",
        column="snr_db",
        unit="dB",
        bin_width=1,
        column_bin=1,
        first_bin=-20,
        num_bins=121,
    ),
    Measure(
        title="Bandwidth", column="bandwidth_hz", unit="kHz", bin_width=0.1, column_bin=100, first_bin=0, num_bins=480
    ),
)
"""What is counted; columns of the quality only where it was measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """Utterances at one end of a column, the first of them as examples."""

    title: str
    """What they are."""
    column: str
    """Column of the index."""
    sign: int
    """1: the smallest values come first; -1: the largest."""
    limit: float | None = None
    """Only values beyond it count, and make an utterance suspicious; None: all do."""

    @property
    def condition(self) -> str:
        """The suspicious utterances, as a condition on the index."""
        return f"{self.column} {'<' if self.sign > 0 else '>'} {self.limit:g}"

    @property
    def opposite(self) -> str:
        """All others, for ``filter --where``."""
        return f"{self.column} {'>=' if self.sign > 0 else '<='} {self.limit:g}"


SUSPICIONS = (
    Ranking(title="Spoken too slowly for the text", column="chars_per_second", sign=1, limit=3),
    Ranking(title="Spoken too fast for the text", column="chars_per_second", sign=-1, limit=30),
    Ranking(title="Noisy", column="snr_db", sign=1, limit=10),
    Ranking(title="Little speech", column="speech_fraction", sign=1, limit=0.3),
    Ranking(title="Clipped", column="clipped_fraction", sign=-1, limit=0.001),
    Ranking(title="Quiet", column="rms_db", sign=1, limit=-50),
    Ranking(title="Telephone bandwidth or less", column="bandwidth_hz", sign=1, limit=3_500),
)
"""What deserves a look. The limits are those of the filters of `prepare`, where they are on."""
EXTREMES = (
    Ranking(title="Longest", column="num_samples", sign=-1),
    Ranking(title="Shortest", column="num_samples", sign=1),
    Ranking(title="Slowest", column="chars_per_second", sign=1),
    Ranking(title="Fastest", column="chars_per_second", sign=-1),
)
"""The ends of the distributions."""
_PLACE = tuple(IndexRow.__slots__)


@dataclass(slots=True, kw_only=True)
class Ranked:
    """How many utterances a ranking counts, and the first of them."""

    num_utterances: int = 0
    """Those beyond the limit, or all."""
    examples: list[dict[str, Any]] = field(default_factory=list)
    """Rows of the index, and ``position``, their number in it; the most extreme first, equal ones as they come."""


@dataclass(slots=True, kw_only=True)
class NameCounts:
    """Utterances and audio by name, in bounded memory: names after the first MAX_NAMES are counted together."""

    by_name: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Utterances and samples of each name."""
    num_other: int = 0
    """Utterances of all further names."""

    def add(self, table: pa.Table, column: str) -> None:
        """Count the names of a column; null and the empty string are no names."""
        groups = table.group_by(column).aggregate([("num_samples", "count"), ("num_samples", "sum")])
        columns = (groups[name].to_pylist() for name in (column, "num_samples_count", "num_samples_sum"))
        for name, number, samples in zip(*columns, strict=True):
            if name and (name in self.by_name or len(self.by_name) < MAX_NAMES):
                before = self.by_name.get(name, (0, 0))
                self.by_name[name] = before[0] + number, before[1] + samples
            elif name:
                self.num_other += number

    def largest_first(self) -> dict[str, tuple[int, int]]:
        """Return utterances and samples by name, those with most utterances first."""
        return dict(sorted(self.by_name.items(), key=lambda item: (-item[1][0], item[0])))


def _no_counts() -> dict[Measure, NDArray[np.int64]]:
    return {measure: np.zeros(measure.num_bins, np.int64) for measure in MEASURES}


def _no_examples() -> dict[Ranking, Ranked]:
    return {ranking: Ranked() for ranking in (*SUSPICIONS, *EXTREMES)}


@dataclass(slots=True, kw_only=True)
class Statistics:
    """What is known of the utterances of a dataset."""

    num_utterances: int = 0
    """Total."""
    num_samples: int = 0
    """Total, at 16 kHz."""
    num_chars: int = 0
    """Code points of all texts."""
    num_without_text: int = 0
    """Utterances with an empty text, which have no speaking rate."""
    has_quality: bool = False
    """Whether the quality was measured."""
    histograms: dict[Measure, NDArray[np.int64]] = field(default_factory=_no_counts)
    """Utterances in each bin; all zero where a column is missing."""
    rankings: dict[Ranking, Ranked] = field(default_factory=_no_examples)
    """Examples of the extremes and of what is suspicious."""
    languages: NameCounts = field(default_factory=NameCounts)
    """By language."""
    speakers: NameCounts = field(default_factory=NameCounts)
    """By speaker."""

    def add(self, table: pa.Table) -> None:
        """Count a piece of the index.

        Args:
            table: The columns of the index, all or those of `needed_columns`, in the order of the index.
        """
        columns = _numbers(table)
        self.has_quality |= "snr_db" in columns
        for measure in MEASURES:
            if measure.column in columns:
                self.histograms[measure] += count_in_bins(columns[measure.column], measure)
        for ranking, ranked in self.rankings.items():
            if ranking.column in columns and len(table):
                _rank(table, columns[ranking.column], ranking, ranked, first_position=self.num_utterances)
        self.languages.add(table, "language")
        self.speakers.add(table, "speaker")
        self.num_utterances += len(table)
        self.num_samples += int(columns["num_samples"].sum())
        self.num_chars += int(columns["num_chars"].sum())
        self.num_without_text += int((columns["num_chars"] == 0).sum())

    def suspicious(self) -> Iterator[tuple[Ranking, Ranked]]:
        """Yield what is suspicious and occurs."""
        return ((ranking, ranked) for ranking in SUSPICIONS if (ranked := self.rankings[ranking]).num_utterances)


def needed_columns(schema: pa.Schema) -> list[str]:
    """Return the columns of an index that `Statistics.add` needs, as far as they are there."""
    wanted = {*_PLACE, *(measure.column for measure in MEASURES), *(ranking.column for ranking in SUSPICIONS)}
    return [name for name in schema.names if name in wanted]


def count_in_bins(values: NDArray[Any], measure: Measure) -> NDArray[np.int64]:
    """Return how many values lie in each bin of a measure; those beyond an end are counted there, NaN nowhere."""
    known = values[~np.isnan(values)] if values.dtype.kind == "f" else values
    bins = (known // measure.column_bin).astype(np.int64) - measure.first_bin
    return np.bincount(np.clip(bins, 0, measure.num_bins - 1), minlength=measure.num_bins)


def _numbers(table: pa.Table) -> dict[str, NDArray[Any]]:
    """Return the numeric columns; the speaking rate is computed where it was not measured."""
    columns = {
        name: table[name].to_numpy()
        for name in table.column_names
        if pa.types.is_integer(table[name].type) or pa.types.is_floating(table[name].type)
    }
    if "chars_per_second" not in columns:
        seconds = np.maximum(columns["num_samples"], 1) / SAMPLE_RATE
        columns["chars_per_second"] = columns["num_chars"] / seconds
    columns["chars_per_second"] = np.where(columns["num_chars"] > 0, columns["chars_per_second"], np.nan)
    return columns


def _rank(table: pa.Table, values: NDArray[Any], ranking: Ranking, ranked: Ranked, *, first_position: int) -> None:
    """Count the utterances of a ranking, and keep the most extreme as examples."""
    signed = ranking.sign * values.astype(np.float64)
    counted = np.isfinite(signed) if ranking.limit is None else signed < ranking.sign * np.float32(ranking.limit)
    ranked.num_utterances += int(counted.sum())
    if len(ranked.examples) == NUM_EXAMPLES:
        counted &= signed < ranking.sign * _value_of(ranked.examples[-1], ranking)
    places = np.flatnonzero(counted)
    best = places[np.argsort(signed[places], kind="stable")[:NUM_EXAMPLES]]
    found = [
        {**row, "position": first_position + place, "chars_per_second": _rate_of(row)}
        for place, row in zip(best.tolist(), table.take(pa.array(best)).to_pylist(), strict=True)
    ]
    merged = sorted([*ranked.examples, *found], key=lambda row: ranking.sign * _value_of(row, ranking))
    ranked.examples = merged[:NUM_EXAMPLES]


def _value_of(row: Mapping[str, Any], ranking: Ranking) -> float:
    return float(row[ranking.column])


def _rate_of(row: Mapping[str, Any]) -> float:
    measured = row.get("chars_per_second")
    return float(row["num_chars"] * SAMPLE_RATE / max(row["num_samples"], 1) if measured is None else measured)
