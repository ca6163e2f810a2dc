"""Lines over the steps of a run, as numbers; ``templates/charts.html`` draws them as inline SVG."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from whisper_shard.report.charts import MAX_X_TICKS, MAX_Y_TICKS, PLOT_HEIGHT, Tick

MAX_POINTS = 400
"""Points of a line at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One quantity over the steps of a run; drawn in a square of 100 by 100 that is stretched to the page."""

    points: str
    """Of the line, as SVG wants them: ``x,y`` pairs."""
    band: str
    """Of a band around it, as for the line; empty: none."""
    x_ticks: tuple[Tick, ...]
    """Steps, in percent from the left."""
    y_ticks: tuple[Tick, ...]
    """Values, in percent from the top."""
    label: str
    """What is shown, with its unit."""
    last: str
    """The newest value."""
    plot_height: int = PLOT_HEIGHT
    """In pixels."""


def make_line(
    steps: Sequence[int],
    values: Sequence[float],
    *,
    label: str,
    scale: str = ",g",
    intervals: Sequence[tuple[float, float]] = (),
) -> Line | None:
    """Draw a line; a long one is drawn through every so many of its points, always through the last.

    Args:
        steps: Ascending.
        values: One for each step.
        label: What is shown, with its unit.
        scale: Format of the values.
        intervals: Low and high end of a band, one for each step; empty: no band.

    Returns:
        The line, or None where there is no value.
    """
    if not values:
        return None
    stride = -(-len(values) // MAX_POINTS)
    shown = [*range(len(values) - 1, -1, -stride)][::-1]
    ends = [end for position in shown for end in (intervals[position] if intervals else (values[position],))]
    low, high = min(ends), max(ends)
    if low == high:
        low, high = low - abs(low) / 2 - 1e-9, high + abs(high) / 2 + 1e-9
    first, width = steps[shown[0]], max(1, steps[-1] - steps[shown[0]])

    def place(step: int, value: float) -> str:
        return f"{100 * (step - first) / width:.2f},{100 * (high - value) / (high - low):.2f}"

    band = [place(steps[position], intervals[position][0]) for position in shown] if intervals else []
    band += [place(steps[position], intervals[position][1]) for position in reversed(shown)] if intervals else []
    x_values = [step for step in _round_values(first, first + width, MAX_X_TICKS) if step.is_integer()]
    return Line(
        points=" ".join(place(steps[position], values[position]) for position in shown),
        band=" ".join(band),
        x_ticks=tuple(Tick(position=100 * (step - first) / width, label=f"{step:,.0f}") for step in x_values),
        y_ticks=tuple(
            Tick(position=100 * (high - value) / (high - low), label=format(value, scale))
            for value in _round_values(low, high, MAX_Y_TICKS)
        ),
        label=label,
        last=format(values[-1], scale),
    )


def _round_values(low: float, high: float, most: int) -> list[float]:
    """Return at most ``most`` round values from ``low`` to ``high``."""
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    sizes = (power * factor for factor in (1, 2, 5, 10, 20))
    size = next(size for size in sizes if math.floor(high / size) - math.ceil(low / size) < most)
    return [number * size for number in range(math.ceil(low / size), math.floor(high / size) + 1)]
