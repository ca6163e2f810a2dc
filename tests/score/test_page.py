"""The page of a score."""

from pathlib import Path

import pytest

from tests.report.reading import HOSTILE, Page
from whisper_shard.score.alignment import ErrorCounts
from whisper_shard.score.page import SHOWN_SLICES, SHOWN_UTTERANCES, build_page
from whisper_shard.score.report import ScoreReport, Slice, WindowReport
from whisper_shard.score.wer import score_texts


def make_report(references, hypotheses, *, slices=(), **changes):
    score = score_texts(references, hypotheses, form="raw")
    window = WindowReport(
        window="full", loss=1.25, scores={"raw": score}, cap_hits=1, slices=tuple(slices), seconds=2.0
    )
    fields = {"model": "a model", "dataset": "data/eval", "warnings": (), **changes}
    return ScoreReport(
        form="raw", num_utterances=len(references), audio_seconds=90.0, windows=(window,), json_path=Path("score.json"),
        html_path=Path("score.html"), **fields,
    )  # fmt: skip


def make_slice(kind, name, errors):
    words = ErrorCounts(insertions=errors, num_reference=1000)
    return Slice(kind=kind, name=name, num_utterances=3, seconds=60.0, words=words, interval=(0.0, errors / 500))


def test_totals_and_summary():
    text = Page(build_page(make_report(["one two", "three"], ["one too", "three"]))).text
    assert "WER 33.33% WER 33.33% 95 % interval 0.00% to 50.00%" in text
    assert "a model on data/eval: 2 utterances, 1.5 minutes. The WER above: 30 s windows, text form raw." in text
    assert "30 s windows raw 33.33% 0.00% to 50.00%" in text and "1 0 0 3 1.250 1" in text


def test_utterances_are_shown_word_by_word():
    page = Page(build_page(make_report(["one two three four five"], ["uh one too three five"])))
    classes = [attributes["class"] for tag, attributes in page.tags if tag == "span"]
    assert classes == ["substitute", "delete", "insert", "small", "insert", "substitute", "delete"]
    assert page.text.endswith("0: 3 errors in 5 words uh one two \u2192 too three four five")


def test_a_perfect_score_has_no_worst_utterance():
    text = Page(build_page(make_report(["one"], ["one"]))).text
    assert text.endswith("Utterances with the most errors None: every word is right.")


def test_the_utterances_with_the_most_errors_come_first():
    references = [f"{'word ' * number}end" for number in range(SHOWN_UTTERANCES + 5)]
    text = Page(build_page(make_report(references, ["end"] * len(references)))).text
    shown = [int(word.rstrip(":")) for word in text.split() if word.endswith(":") and word[:-1].isdigit()]
    assert shown == list(range(SHOWN_UTTERANCES + 4, 4, -1))


def test_slices_have_bars_with_intervals():
    slices = [make_slice("speaker", "ann", 100), make_slice("speaker", "bob", 50), make_slice("seconds", "00-01 s", 10)]
    page = Page(build_page(make_report(["one"], ["one"], slices=slices)))
    assert "By speaker, 30 s windows" in page.text and "By seconds, 30 s windows" in page.text
    assert "ann 10.00% 0.00% to 20.00% 100 3 1.0 bob 5.00%" in page.text
    rects = [attributes["width"] for tag, attributes in page.tags if tag == "rect"]
    assert rects == ["50.0%", "25.0%", "50.0%"]
    assert ("line", {"x1": "0.0%", "x2": "50.0%", "y1": "14", "y2": "14"}) in page.tags


def test_of_many_slices_the_worst_are_shown():
    slices = [make_slice("speaker", f"speaker{number}", number) for number in range(SHOWN_SLICES + 2)]
    page = Page(build_page(make_report(["one"], ["one"], slices=slices)))
    assert page.count("rect") == SHOWN_SLICES and "and 2 more with a lower WER" in page.text
    assert f"speaker{SHOWN_SLICES + 1} " in page.text and "speaker1 " not in page.text


@pytest.mark.parametrize(("hypothesis", "times"), [(HOSTILE, 5), ("", 4)])
def test_texts_cannot_add_markup(hypothesis, times):
    reference = HOSTILE.replace("1", "2")
    slices = [make_slice("speaker", HOSTILE, 1)]
    report = make_report([reference], [hypothesis], slices=slices, model=HOSTILE, dataset=HOSTILE, warnings=(HOSTILE,))
    page = Page(build_page(report))
    assert page.text.count(HOSTILE) == times and '<script>alert("2")</script>' in page.text
