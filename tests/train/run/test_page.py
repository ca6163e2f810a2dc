"""The page of a run."""

import json
import math
import re

import pytest

from tests.train.run.test_summary import make_run
from whisper_shard.report.lines import MAX_POINTS, make_line
from whisper_shard.train.run.folder import RunFolder
from whisper_shard.train.run.page import MAX_HYPOTHESES, write_run_page


def page_of(folder):
    write_run_page(RunFolder(path=folder))
    return (folder / "run.html").read_text()


def write_metrics(folder, lines):
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def evaluation(step, wer, **fields):
    return {"kind": "eval", "step": step, "wer": wer, "wer_low": wer - 0.1, "wer_high": wer + 0.1, "cer": wer, **fields}


def test_a_run_that_goes_on_and_its_end(tmp_path):
    folder = make_run(tmp_path / "run", lr=0.5, wer=0.30, is_finished=False)
    page = page_of(folder)
    assert "not finished" in page and "Newest WER 35.00% (step 20), lowest 30.00% (step 10), 90.00% at step 0" in page
    assert page.count("<polyline") == 1 and "WER in 30 s windows" in page
    assert re.search(r"lr</td>\s*<td[^>]*>0.5</td>", page), "what differs from the defaults"
    assert "seed</td>" in page and "language</td>" not in page
    finished = page_of(make_run(tmp_path / "done", lr=0.5, wer=0.30))
    assert "finished</small>" in finished and "WER 30.00% in 30 s windows (95 % interval 28.00% to 32.00%)" in finished


def test_transcripts_over_time_are_escaped_and_few(tmp_path):
    folder = make_run(tmp_path / "run", lr=0.5, wer=0.3, is_finished=False)
    texts = [f"<b>try {number}" for number in range(MAX_HYPOTHESES + 5)]
    sample = {"key": "utt", "reference": "<script>alert(1)</script>"}
    lines = [evaluation(i, 0.5, samples=[{**sample, "hypothesis": text}]) for i, text in enumerate(texts)]
    write_metrics(folder, lines)
    page = page_of(folder)
    assert "<script" not in page and "&lt;script&gt;alert(1)" in page
    assert page.count("&lt;b&gt;try") == MAX_HYPOTHESES
    assert "&lt;b&gt;try 0<" in page and f"&lt;b&gt;{texts[-1][3:]}<" in page


def test_a_run_without_numbers(tmp_path):
    folder = make_run(tmp_path / "run", lr=0.5, wer=0.3, is_finished=False)
    lines = [{"kind": "train", "loss": None, "lr": 0.1}, {"kind": "warning", "message": "hot"}]
    write_metrics(folder, [{**line, "step": 3} for line in lines])
    page = page_of(folder)
    assert "Step 3; not evaluated yet." in page and "None yet." in page and "hot</p>" in page
    assert page.count("<polyline") == 1  # the learning rate


def points_of(line):
    return [tuple(map(float, point.split(","))) for point in line.points.split()]


@pytest.mark.parametrize("count", [1, 2, MAX_POINTS, 10 * MAX_POINTS + 3])
def test_a_line_goes_from_the_first_to_the_last_value(count):
    values = [math.sin(number / 50) for number in range(count)]
    line = make_line(range(0, 3 * count, 3), values, label="x", intervals=[(value - 1, value + 2) for value in values])
    points = points_of(line)
    assert len(points) <= MAX_POINTS and points[-1][0] == (100 if count > 1 else 0)
    assert all(0 <= x <= 100 and 0 <= y <= 100 for x, y in points)
    assert len(line.band.split()) == 2 * len(points)
    assert 1 <= len(line.x_ticks) <= 7 and 1 <= len(line.y_ticks) <= 4
    assert all(0 <= tick.position <= 100 for tick in (*line.x_ticks, *line.y_ticks))


def test_lines_of_equal_values_and_of_none():
    flat = make_line([1, 2], [0.0, 0.0], label="x")
    assert {y for _, y in points_of(flat)} == {50.0}
    assert make_line([], [], label="x") is None
    rising = points_of(make_line([0, 1, 2], [1.0, 2.0, 3.0], label="x"))
    assert rising == [(0, 100), (50, 50), (100, 0)]
