import numpy as np
import pytest

from tests.prepare.corpora import make_corpus, prepare, totals_of
from whisper_shard.prepare.report import Tally, count_in_bins, draw_histogram, fit_bars, render_report


def test_last_bin_takes_what_lies_beyond():
    assert count_in_bins(np.array([0, 0, 1, 7]), 2).tolist() == [2, 2]


def test_bars_have_the_height_of_their_count():
    svg = draw_histogram(np.array([1, 4]), 0.5)
    assert 'height="35.0"><title>0 to 0.5: 1</title>' in svg
    assert 'height="140.0"><title>0.5 to 1: 4</title>' in svg
    assert draw_histogram(np.zeros(300, np.int64), 0.1) == "<p>none</p>"


@pytest.mark.parametrize(
    ("values", "width", "borders", "is_open"),
    [
        ([3, 4, 5], 0.1, (0.3, 0.6, 3), False),
        ([100, 299], 0.1, (10.0, 30.0, 40), False),
        ([0, 299], 0.1, (0.0, 30.0, 30), False),
        ([7], 1, (7, 8, 1), False),
        ([*range(20, 60)] * 10 + [3_999], 1, (20, 60, 40), True),
        ([30, 3_999], 1, (0, 4_000, 40), False),
    ],
)
def test_axis_fits_the_values(values, width, borders, is_open):
    counts = count_in_bins(np.array(values), 300 if width < 1 else 4_000)
    bars, edges, found_open = fit_bars(counts, width)
    assert (edges[0], edges[-1], len(bars)) == pytest.approx(borders)
    assert (bars.sum(), found_open) == (len(values), is_open)


def test_page_shows_counts_and_escapes_what_users_wrote():
    tally = Tally(num_rows=3, num_utterances=2, num_samples=48_000)
    tally.reasons["too_short"] = 1
    tally.speakers["<script>"] = 2
    examples = [{"row": 2, "source": "<b>.wav", "reason": "too_short", "detail": ""}]
    page = render_report("train", tally, examples)
    assert "2 (66.7%)" in page
    assert "too_short" in page
    assert "&lt;script&gt;" in page
    assert "<script" not in page
    assert "<b>" not in page
    assert 'class="dataframe texts"' in page


def test_report_rejects_and_totals_agree(tmp_path):
    import pyarrow.parquet as pq

    corpus = make_corpus(tmp_path / "corpus", 5, extra=[("bad.wav", b"nothing")])
    totals = totals_of(prepare(corpus, tmp_path / "out", jobs=1, eval_fraction=0.0))["train"]
    assert (totals.num_rows, totals.num_utterances, totals.rejects) == (6, 5, {"decode_failed": 1})
    (reject,) = pq.read_table(tmp_path / "out/train/rejects.parquet").to_pylist()
    assert (reject["row"], reject["source"], reject["reason"]) == (3, "audios/bad.wav", "decode_failed")
    assert "decode_failed" in (tmp_path / "out/train/report.html").read_text()
