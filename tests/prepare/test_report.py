import numpy as np

from tests.prepare.corpora import make_corpus, prepare, totals_of
from tests.report.reading import HOSTILE, Page
from whisper_shard.prepare.report import Tally, count_in_bins, render_report


def test_last_bin_takes_what_lies_beyond():
    assert count_in_bins(np.array([0, 0, 1, 7]), 2).tolist() == [2, 2]


def test_page_shows_counts_and_escapes_what_users_wrote():
    tally = Tally(num_rows=3, num_utterances=2, num_samples=48_000)
    tally.reasons["too_short"] = 1
    tally.speakers.add([HOSTILE, HOSTILE, None])
    tally.seconds_counts[10] = 2
    examples = [{"row": 2, "source": HOSTILE, "reason": "too_short", "detail": HOSTILE, "seconds": 0.5}]
    page = Page(render_report("train", tally, examples))
    assert "2 (66.7%)" in page.text and "too_short 1 100.0%" in page.text
    assert page.text.count(HOSTILE) == 3
    assert f"{HOSTILE} 2 100.0%" in page.text
    assert "1 to 1.1 seconds: 2 utterances" in page.text


def test_an_empty_dataset_has_a_page():
    assert "0 (0.0%)" in Page(render_report("eval", Tally(), [])).text


def test_names_are_counted_in_bounded_memory(monkeypatch):
    monkeypatch.setattr("whisper_shard.prepare.report.MAX_NAMES", 40)
    tally = Tally()
    tally.speakers.add(f"speaker{number:02d}" for number in range(50))
    tally.speakers.add(["speaker03", "", None, "speaker49"])
    assert (len(tally.speakers.by_name), tally.speakers.by_name["speaker03"], tally.speakers.num_other) == (40, 2, 11)
    text = Page(render_report("train", tally, [])).text
    assert "speaker03 2 3.8%" in text and "and 10 more" in text
    assert "11 utterances have further names, which are not counted one by one" in text


def test_report_rejects_and_totals_agree(tmp_path):
    import pyarrow.parquet as pq

    corpus = make_corpus(tmp_path / "corpus", 5, extra=[("bad.wav", b"nothing")])
    totals = totals_of(prepare(corpus, tmp_path / "out", jobs=1, eval_fraction=0.0))["train"]
    assert (totals.num_rows, totals.num_utterances, totals.rejects) == (6, 5, {"decode_failed": 1})
    (reject,) = pq.read_table(tmp_path / "out/train/rejects.parquet").to_pylist()
    assert (reject["row"], reject["source"], reject["reason"]) == (3, "audios/bad.wav", "decode_failed")
    page = Page((tmp_path / "out/train/report.html").read_text())
    assert "decode_failed 1 100.0%" in page.text and "audios/bad.wav decode_failed" in page.text
