"""The shapes of charts as numbers; ``templates/charts.html`` draws them as inline SVG.

Horizontal positions are percentages: a chart is as wide as its page, and its letters keep their size on a phone.
Vertical positions are pixels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np
from numpy.typing import NDArray

from whisper_shard.report.quantities import describe_number

PLOT_HEIGHT = 160
"""Height of a histogram without its labels, in pixels."""
MAX_COLUMNS = 40
"""Columns of a histogram at most."""
MAX_X_TICKS = 7
"""Labels below a histogram at most: as many as fit on a phone."""
MAX_Y_TICKS = 4
"""Labels beside a histogram at most."""
_SHOWN_SHARE = 0.995
_LONG_TAIL = 1.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column of a histogram."""

    x: float
    """Left edge, in percent."""
    width: float
    """Width, in percent."""
    height: float
    """Height, in pixels."""
    title: str
    """Range and count, shown when it is pointed at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """A label on an axis."""

    position: float
    """In percent from the left on the x axis, in pixels from the top on the y axis."""
    label: str
    """Its value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """How often values occur."""

    columns: tuple[Column, ...]
    """From left to right."""
    x_ticks: tuple[Tick, ...]
    """Values."""
    y_ticks: tuple[Tick, ...]
    """Counts."""
    x_label: str
    """Unit of the values; also says when the last column counts larger values as well."""
    y_label: str
    """What is counted."""
    plot_height: int = PLOT_HEIGHT
    """In pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """A number to be shown as a bar."""

    value: float
    """Length of the bar; not negative."""
    interval: tuple[float, float] | None = None
    """Drawn as a line over the bar."""
    is_marked: bool = False
    """Whether the bar has the colour of its chart instead of the plain one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One horizontal bar; all in percent of the longest."""

    width: float
    """Length."""
    whisker: tuple[float, float] | None
    """From and to."""
    is_marked: bool
    """Whether it stands out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bars:
    """A column of bars for a table, one in each row."""

    label: str
    """Head of the column."""
    bars: tuple[Bar, ...]
    """From top to bottom."""
    line: float | None = None
    """A line through all of them, in percent."""
    mark: str = "good"
    """Colour of marked bars: ``good`` or ``bad``."""


def make_bars(values: Sequence[Value], *, label: str, line: float | None = None, mark: str = "good") -> Bars:
    """Scale values to the largest value, interval or line.

    Args:
        values: One for each row.
        label: What is shown, with its unit.
        line: A value to compare with.
        mark: Colour of marked bars: ``good`` or ``bad``.
    """
    ends = [value.interval[1] if value.interval else 0.0 for value in values]
    largest = max([*(value.value for value in values), *ends, line or 0.0], default=0.0) or 1.0

    def scale(value: float) -> float:
        return round(100 * value / largest, 2)

    bars = tuple(
        Bar(
            width=scale(value.value),
            whisker=(scale(value.interval[0]), scale(value.interval[1])) if value.interval else None,
            is_marked=value.is_marked,
        )
        for value in values
    )
    return Bars(label=label, bars=bars, line=None if line is None else scale(line), mark=mark)


def make_histogram(
    counts: NDArray[np.int64], bin_width: float, *, unit: str, counted: str, first_bin: int = 0
) -> Histogram | None:
    """Draw a histogram over the range of the values that occur.

    Args:
        counts: How many values lie in each bin.
        bin_width: Width of a bin.
        unit: Unit of the values.
        counted: What is counted, in the singular.
        first_bin: Number of the first bin; bin 0 starts at 0.

    Returns:
        The histogram, or None where nothing was counted.
    """
    if not counts.any():
        return None
    fitted = fit_columns(counts)
    top, width = int(fitted.counts.max()), 100 / len(fitted.counts)
    edges = _edges(fitted, bin_width, first_bin)
    ends = [f"to {edge:,g}" for edge in edges[1:]]
    if fitted.num_beyond:
        ends[-1] = "and more"
    columns = tuple(
        Column(
            x=round(width * position, 2),
            width=round(width, 2),
            height=round(PLOT_HEIGHT * int(number) / top, 1),
            title=f"{edges[position]:,g} {ends[position]} {unit}: {describe_number(int(number), counted)}",
        )
        for position, number in enumerate(fitted.counts)
    )
    beyond = f"; the last column: {edges[-2]:,g} and more" if fitted.num_beyond else ""
    return Histogram(
        columns=columns,
        x_ticks=_x_ticks(fitted, bin_width, first_bin),
        y_ticks=tuple(
            Tick(position=round(PLOT_HEIGHT * (1 - number / top), 1), label=f"{number:,}")
            for number in _round_values(0, top, MAX_Y_TICKS)
        ),
        x_label=unit + beyond,
        y_label=f"{counted}s",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedColumns:
    """Bins joined to the columns of a histogram."""

    counts: NDArray[np.int64]
    """Count of each column."""
    first_bin: int
    """Bin at which the first column starts."""
    join: int
    """Bins of a column."""
    num_beyond: int
    """Values counted in the last column although they are larger."""


def list_columns(
    counts: NDArray[np.int64], bin_width: float, *, max_columns: int, first_bin: int = 0
) -> list[tuple[float, float, int]]:
    """Return a histogram as numbers: where each column begins and ends, and its count; the last counts larger values.

    Args:
        counts: How many values lie in each bin.
        bin_width: Width of a bin.
        max_columns: Columns at most.
        first_bin: Number of the first bin; bin 0 starts at 0.
    """
    if not counts.any():
        return []
    fitted = fit_columns(counts, max_columns)
    edges = np.round(_edges(fitted, bin_width, first_bin), 6).tolist()
    return list(zip(edges[:-1], edges[1:], fitted.counts.tolist(), strict=True))


def _edges(fitted: FittedColumns, bin_width: float, first_bin: int) -> NDArray[np.float64]:
    """Return where the columns begin, and where the last one ends."""
    bins = first_bin + fitted.first_bin + np.arange(len(fitted.counts) + 1) * fitted.join
    return bins.astype(np.float64) * bin_width


def fit_columns(counts: NDArray[np.int64], max_columns: int = MAX_COLUMNS) -> FittedColumns:
    """Join bins to a few columns over the range of the values.

    A few values far above all others do not stretch the axis: they are counted in the last column.

    Args:
        counts: Of each bin; not all zero.
        max_columns: Columns at most.
    """
    filled = np.flatnonzero(counts)
    first, last = int(filled[0]), int(filled[-1])
    common = int(np.searchsorted(counts.cumsum(), _SHOWN_SHARE * counts.sum()))
    if last + 1 > _LONG_TAIL * (common + 1):
        last = common
    join = next(size for size in _round_sizes() if last // size - first // size < max_columns)
    start, num_columns = first // join, last // join - first // join + 1
    shown = counts[start * join : (start + num_columns) * join]
    columns = np.pad(shown, (0, num_columns * join - len(shown))).reshape(num_columns, join).sum(axis=1)
    beyond = int(counts.sum() - columns.sum())
    columns[-1] += beyond
    return FittedColumns(counts=columns, first_bin=start * join, join=join, num_beyond=beyond)


def _x_ticks(fitted: FittedColumns, bin_width: float, first_bin: int) -> tuple[Tick, ...]:
    """Label round values; bins are whole numbers, so that no label is off by a rounding error."""
    num_bins = len(fitted.counts) * fitted.join
    start = first_bin + fitted.first_bin
    bins = _round_values(start, start + num_bins, MAX_X_TICKS)
    return tuple(
        Tick(position=round(100 * (place - start) / num_bins, 2), label=f"{place * bin_width:,g}") for place in bins
    )


def _round_values(first: int, last: int, most: int) -> range:
    """Return at most ``most`` round values from ``first`` to ``last``."""
    step = next(size for size in _round_sizes() if last // size - -(-first // size) < most)
    return range(-(-first // step) * step, last + 1, step)


def _round_sizes() -> Iterator[int]:
    for power in count():
        yield from (10**power, 2 * 10**power, 5 * 10**power)
