"""Charts are numbers: what they show is as high, as long and as far as it should be."""

import numpy as np
import pytest

from tests.report.reading import Page
from whisper_shard.report.charts import (
    MAX_X_TICKS,
    MAX_Y_TICKS,
    PLOT_HEIGHT,
    Value,
    fit_columns,
    list_columns,
    make_bars,
    make_histogram,
)
from whisper_shard.report.page import render_page


def draw(counts, bin_width):
    return make_histogram(np.array(counts), bin_width, unit="seconds", counted="utterance")


def counts_of(values, num_bins):
    return np.bincount(np.array(values), minlength=num_bins)


def test_columns_have_the_height_of_their_count():
    first, second = draw([1, 4], 0.5).columns
    assert (first.x, first.width, first.height) == (0, 50, PLOT_HEIGHT / 4)
    assert (second.x, second.width, second.height) == (50, 50, PLOT_HEIGHT)
    assert first.title == "0 to 0.5 seconds: 1 utterance" and second.title == "0.5 to 1 seconds: 4 utterances"
    assert draw(np.zeros(300, np.int64), 0.1) is None


@pytest.mark.parametrize(
    ("values", "bin_width", "borders", "is_open"),
    [
        ([3, 4, 5], 0.1, (0.3, 0.6, 3), False),
        ([100, 299], 0.1, (10.0, 30.0, 40), False),
        ([0, 299], 0.1, (0.0, 30.0, 30), False),
        ([7], 1, (7, 8, 1), False),
        ([*range(20, 60)] * 10 + [3_999], 1, (20, 60, 40), True),
        ([30, 3_999], 1, (0, 4_000, 40), False),
    ],
)
def test_axis_fits_the_values(values, bin_width, borders, is_open):
    fitted = fit_columns(counts_of(values, 300 if bin_width < 1 else 4_000))
    first, last = fitted.first_bin, fitted.first_bin + fitted.join * len(fitted.counts)
    assert (first * bin_width, last * bin_width, len(fitted.counts)) == pytest.approx(borders)
    assert (fitted.counts.sum(), fitted.num_beyond > 0) == (len(values), is_open)


def test_the_last_column_says_that_it_counts_larger_values():
    chart = draw(counts_of([*range(20, 60)] * 10 + [3_999], 4_000), 1)
    assert chart.columns[-1].title == "59 and more seconds: 11 utterances"
    assert chart.x_label == "seconds; the last column: 59 and more"


@pytest.mark.parametrize(
    ("values", "bin_width", "labels"),
    [
        ([3, 4, 5], 0.1, ["0.3", "0.4", "0.5", "0.6"]),
        ([0, 299], 0.1, ["0", "5", "10", "15", "20", "25", "30"]),
        ([30, 3_999], 1, ["0", "1,000", "2,000", "3,000", "4,000"]),
        ([7], 1, ["7", "8"]),
    ],
)
def test_ticks_are_few_round_and_where_their_value_is(values, bin_width, labels):
    chart = draw(counts_of(values, 4_000), bin_width)
    assert [tick.label for tick in chart.x_ticks] == labels
    assert (chart.x_ticks[0].position, chart.x_ticks[-1].position) == (0, 100)
    assert len(chart.x_ticks) <= MAX_X_TICKS


@pytest.mark.parametrize("highest", [1, 3, 7, 40, 1_234_567])
def test_counts_beside_a_histogram(highest):
    ticks = draw([1, highest], 1).y_ticks
    assert (ticks[0].label, ticks[0].position) == ("0", PLOT_HEIGHT)
    assert 2 <= len(ticks) <= MAX_Y_TICKS
    top = int(ticks[-1].label.replace(",", ""))
    assert ticks[-1].position == pytest.approx(PLOT_HEIGHT * (1 - top / highest), abs=0.1)


def test_bars_are_scaled_to_the_largest_number_shown():
    values = [Value(value=1, interval=(0.5, 2)), Value(value=4, is_marked=True)]
    bars = make_bars(values, label="WER", line=8)
    assert [bar.width for bar in bars.bars] == [12.5, 50]
    assert bars.bars[0].whisker == (6.25, 25) and bars.bars[1].is_marked and bars.line == 100
    assert make_bars([Value(value=0)], label="").bars[0].width == 0


def test_columns_below_zero_are_where_their_value_is():
    counts = np.zeros(101, np.int64)
    counts[[40, 75]] = 1
    chart = make_histogram(counts, 1, unit="dB", counted="utterance", first_bin=-100)
    assert chart.columns[0].title == "-60 to -59 dB: 1 utterance"
    assert [tick.label for tick in chart.x_ticks] == ["-60", "-50", "-40", "-30"]
    assert list_columns(counts, 1, max_columns=2, first_bin=-100) == [(-60, -40, 1), (-40, -20, 1)]
    assert list_columns(np.zeros(3, np.int64), 1, max_columns=4) == []


def test_a_drawn_histogram_has_its_columns_and_labels():
    chart = draw([1, 4, 2], 0.5)
    charts = [{"title": "Duration", "histogram": chart}, {"title": "Level", "histogram": None}]
    lists = ("checks", "reasons", "rejects", "suspicions", "suspicious", "extremes", "sections")
    empty = dict.fromkeys(lists, ())
    page = Page(render_page("dataset.html", name="x", hours="", totals={}, charts=charts, has_quality=True, **empty))
    rects = [attributes for tag, attributes in page.tags if tag == "rect"]
    assert [(rect["y"], rect["height"]) for rect in rects] == [("120.0", "40.0"), ("0.0", "160.0"), ("80.0", "80.0")]
    assert "0.5 to 1 seconds: 4 utterances" in page.text and "1.5 seconds" in page.text
    assert "Level None." in page.text
