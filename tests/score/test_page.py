"""The page of a score."""

from pathlib import Path

import pytest

from tests.report.reading import HOSTILE, Page
from whisper_shard.score.alignment import ErrorCounts
from whisper_shard.score.compare import compare_evaluations
from whisper_shard.score.evaluation import EvaluatedUtterance, summarize_utterances
from whisper_shard.score.outputs import count_outputs
from whisper_shard.score.page import (
    SHOWN_CONFUSIONS,
    SHOWN_SLICES,
    SHOWN_UTTERANCES,
    PageDetails,
    build_page,
    list_shown,
)
from whisper_shard.score.report import ScoreReport, WindowReport
from whisper_shard.score.slices import Slice
from whisper_shard.score.wer import score_texts


def make_report(references, hypotheses, *, slices=(), **changes):
    score = score_texts(references, hypotheses, form="raw")
    utterances = tuple(
        EvaluatedUtterance(key=row.key, reference=row.reference, hypothesis=row.hypothesis, language="en",
                           hit_cap=row.key == "0", seconds=90.0 / len(references))
        for row in score.utterances
    )  # fmt: skip
    window = WindowReport(
        window="full", loss=1.25, scores={"raw": score}, outputs=count_outputs(utterances, score.utterances),
        times=None, slices=tuple(slices), seconds=9.0, utterances=utterances,
    )  # fmt: skip
    defaults = {"model": "a model", "dataset": "data/eval", "settings": {}, "warnings": (), "comparison": None}
    fields = {**defaults, **changes}
    return ScoreReport(
        form="raw", num_utterances=len(references), audio_seconds=90.0, windows=(window,), json_path=Path("score.json"),
        html_path=Path("score.html"), table_path=Path("score.parquet"), **fields,
    )  # fmt: skip


def make_slice(kind, name, errors, *, num_utterances=30, is_ordered=False):
    words = ErrorCounts(insertions=errors, num_reference=1000)
    return Slice(
        kind=kind, name=name, is_ordered=is_ordered, num_utterances=num_utterances, seconds=60.0, words=words,
        chars=words, interval=(0.0, errors / 500),
    )  # fmt: skip


def keys_of(page):
    """Keys of the utterances, in the order of the page."""
    return [int(word) for word, dot in zip(page.text.split(), page.text.split()[1:], strict=False) if dot == "\u00b7"
            and word.isdigit()]  # fmt: skip


def test_totals_and_summary():
    report = make_report(["one two", "three"], ["one too", "three"], settings={"precision": "float32"})
    text = Page(build_page(report)).text
    assert "WER 33.33% WER 33.33% 95 % interval 0.00% to 50.00%" in text
    assert "a model on data/eval: 2 utterances, 1.5 min. The WER above: 30 s windows, text form raw." in text
    assert "30 s windows raw 33.33% 0.00% to 50.00%" in text and "1 0 0 3 1.250" in text
    assert "errors 1: 1 substitutions, 0 deletions, 0 insertions" in text
    assert "empty 0 (0.0%) cut off 1 (50.0%) looping 0 (0.0%) real-time factor 0.1 (9.0 s for 1.5 min of audio)" in text
    assert text.endswith("Settings precision float32")


def test_utterances_are_shown_word_by_word():
    page = Page(build_page(make_report(["one two three four five"], ["uh one too three five"])))
    kinds = ("substitute", "delete", "insert", "equal")
    classes = [attributes["class"] for tag, attributes in page.tags if attributes.get("class") in kinds]
    assert classes == ["substitute", "delete", "insert", "insert", "equal", "substitute", "equal", "delete", "equal"]
    assert (
        "0 \u00b7 3 errors in 5 words \u00b7 90.00 s cut off uh one one two too three three four five five" in page.text
    )


def test_errors_come_before_slices_and_slices_before_settings():
    report = make_report(["one"], ["two"], slices=[make_slice("speaker", "ann", 3)], settings={"precision": "bf16"})
    page = Page(build_page(report))
    places = [
        page.text.rindex(words) for words in ("with the most errors", "Words taken", "WER by speaker", "Settings")
    ]
    assert places == sorted(places)
    links = [attributes["href"][1:] for tag, attributes in page.tags if tag == "a"]
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert links == ["utterances", "words1", "slices1", "forms", "settings"] and ids == links


def test_players_and_what_is_known_of_an_utterance():
    clip = "data:audio/mpeg;base64,AAAA"
    report = make_report(["one", "two"], ["two", "one"])
    page = Page(build_page(report, PageDetails(clips={"1": clip}, labels={"0": ["ann"]})))
    assert [attributes["src"] for tag, attributes in page.tags if tag == "audio"] == [clip]
    assert "0 \u00b7 1 error in 1 word \u00b7 45.00 s \u00b7 ann" in page.text
    assert "Players: the first 1, until the page is full" in page.text
    assert "Without players" in Page(build_page(report)).text


def evaluate(references, hypotheses):
    rows = [
        EvaluatedUtterance(key=str(i), reference=reference, hypothesis=text, language="en", hit_cap=False, seconds=1.0)
        for i, (reference, text) in enumerate(zip(references, hypotheses, strict=True))
    ]
    return summarize_utterances(rows, window="full", form="raw", loss=1.0, seconds=1.0)


def test_a_comparison_shows_what_changed_in_both_directions():
    references = ["one two", "three", "four", "five"]
    here, there = ["one two", "tree", "for", "five"], ["won too", "three", "for", "five"]
    found = compare_evaluations("old", evaluate(references, here), evaluate(references, there))
    clip = "data:audio/mpeg;base64,AAAA"
    report = make_report(references, here, comparison=found)
    assert list_shown(report) == ["1", "2", "0"]  # the worst, then what changed
    page = Page(build_page(report, PageDetails(clips={"0": clip, "1": clip, "2": clip})))
    assert "Against old WER 40.00% against 60.00%: -20.00 points (95 % interval" in page.text
    assert "this may be chance); fewer errors in 1 utterance, more in 1, as many in 2." in page.text
    assert (
        "1 \u00b7 +1 error \u00b7 22.50 s old: 0 errors in 1 word three three this score: 1 error in 1 word"
        in page.text
    )
    assert (
        "0 \u00b7 -2 errors \u00b7 22.50 s old: 2 errors in 2 words one won two too this score: 0 errors" in page.text
    )
    assert [attributes["data-worse"] for _, attributes in page.tags if "data-worse" in attributes] == ["1", "-2"]
    assert page.count("audio") == 4  # one beside each of two worst utterances, and of two changed ones
    assert next(attributes["href"] for tag, attributes in page.tags if tag == "a") == "#against"


def test_a_clearly_worse_score_is_marked():
    references = ["one"] * 40
    worse = compare_evaluations("old", evaluate(references, ["two"] * 40), evaluate(references, ["one"] * 40))
    notes = [
        [a["class"] for tag, a in Page(build_page(make_report(references, ["two"] * 40, comparison=found))).tags
         if tag == "p" and a.get("class", "").startswith("note")]
        for found in (worse, compare_evaluations("old", evaluate(references, ["two"] * 40), worse_of(references)))
    ]  # fmt: skip
    assert notes == [["note warning"], ["note"]]


def worse_of(references):
    return evaluate(references, ["two"] * len(references))


def test_a_perfect_score_has_no_worst_utterance():
    page = Page(build_page(make_report(["one"], ["one"])))
    assert "Utterances with the most errors None: every word is right." in page.text
    assert "Words taken" not in page.text


def test_the_utterances_with_the_most_errors_come_first():
    references = [f"{'word ' * number}end" for number in range(SHOWN_UTTERANCES + 5)]
    page = Page(build_page(make_report(references, ["end"] * len(references))))
    assert keys_of(page) == list(range(SHOWN_UTTERANCES + 4, 4, -1))
    assert "and 4 with fewer errors; score.parquet has all" in page.text
    errors = [int(attributes["data-errors"]) for tag, attributes in page.tags if "data-errors" in attributes]
    assert errors == sorted(errors, reverse=True)


def test_the_most_frequent_confusions_come_first():
    references = [f"word{i}" for i in range(SHOWN_CONFUSIONS + 2)] + ["word1"]
    page = Page(build_page(make_report(references, ["end"] * len(references))))
    assert "said recognized times said in all word1 end 2 2 word0 end 1 1" in page.text
    assert "and 2 more" in page.text


def test_slices_have_bars_with_intervals():
    slices = [
        make_slice("speaker", "bob", 50), make_slice("speaker", "ann", 100),
        make_slice("seconds", "below 1 s", 10, is_ordered=True),
        make_slice("seconds", "1 s and more", 20, is_ordered=True),
    ]  # fmt: skip
    page = Page(build_page(make_report(["one"], ["one"], slices=slices)))
    assert "WER by speaker" in page.text and "WER by duration (seconds)" in page.text
    assert "ann 10.00% 0.00% to 20.00% 10.00% 0 0 100 1,000 30 1.0 min bob 5.00%" in page.text
    assert page.text.index("below 1 s") < page.text.index("1 s and more")
    rects = [attributes["width"] for tag, attributes in page.tags if tag == "rect"]
    assert rects == ["50.0%", "25.0%", "25.0%", "50.0%"]
    assert ("line", {"x1": "0.0%", "x2": "50.0%", "y1": "14", "y2": "14"}) in page.tags


def test_small_slices_are_marked_and_come_last():
    slices = [make_slice("speaker", "rare", 900, num_utterances=2), make_slice("speaker", "ann", 100)]
    text = Page(build_page(make_report(["one"], ["one"], slices=slices))).text
    assert text.index("ann 10.00%") < text.index("rare 90.00%")
    assert "2 (few)" in text and "30 (few)" not in text


def test_of_many_slices_the_worst_are_shown():
    slices = [make_slice("speaker", f"speaker{number}", number) for number in range(SHOWN_SLICES + 2)]
    page = Page(build_page(make_report(["one"], ["one"], slices=slices)))
    assert page.count("rect") == SHOWN_SLICES and "and 2 more with a lower WER" in page.text
    assert f"speaker{SHOWN_SLICES + 1} " in page.text and "speaker1 " not in page.text


@pytest.mark.parametrize("hypothesis", [HOSTILE, ""])
def test_texts_cannot_add_markup(hypothesis):
    reference = HOSTILE.replace("1", "2")
    slices = [make_slice("speaker", HOSTILE, 1)]
    report = make_report(
        [reference], [hypothesis], slices=slices, model=HOSTILE, dataset=HOSTILE, warnings=(HOSTILE,),
        settings={HOSTILE: HOSTILE},
    )  # fmt: skip
    page = Page(build_page(report, PageDetails(labels={"0": [HOSTILE]})))
    assert page.text.count(HOSTILE) == 7  # model, dataset, warning, label, slice, and a setting with its value
    assert '<script>alert("2")</script>' in page.text
