"""What is said about runs that are compared."""

import json

import pytest

from whisper_shard.cli.main import run
from whisper_shard.errors import StateError
from whisper_shard.train.run.folder import RunFolder, TrainReport, write_report
from whisper_shard.train.run.summary import find_differences, summarize_run


def make_run(folder, *, lr, wer, steps=20, is_finished=True, data="abc"):
    folder.mkdir()
    settings = {"lr": lr, "seed": 1, "language": ""}
    (folder / "train.json").write_text(json.dumps({"settings": settings, "data": {"eval": data}}))
    evaluations = [(0, 0.9, 0.5), (10, wer, 0.1), (steps, wer + 0.05, 0.2)]
    lines = [
        {"kind": "eval", "step": step, "wer": w, "cer": cer, "wer_low": w - 0.02, "wer_high": w + 0.02}
        for step, w, cer in evaluations
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if is_finished:
        report = TrainReport(
            model="model", steps=steps, best_step=10, stopped="early", wer_before=0.9, wer=wer,
            wer_interval=(wer - 0.02, wer + 0.02), wer_short=0.31, cer=0.1, loss=1.0, cap_hits=0, chosen="best",
            candidates={}, seconds=1.0,
        )  # fmt: skip
        write_report(RunFolder(path=folder), report)
    return folder


def test_a_finished_run_and_one_that_is_not(tmp_path):
    done = summarize_run(make_run(tmp_path / "a", lr=1e-5, wer=0.30))
    going = summarize_run(make_run(tmp_path / "b", lr=1e-4, wer=0.25, is_finished=False))
    assert (done.wer, done.best_step, done.steps, done.stopped, done.wer_short) == (0.30, 10, 20, "early", 0.31)
    assert (going.wer, going.best_step, going.steps, going.stopped) == (0.25, 10, 20, "not finished")
    assert going.wer_interval == pytest.approx((0.23, 0.27)) and going.wer_short is None
    assert find_differences([done, going]) == {"lr": [1e-5, 1e-4]}


def test_a_run_without_any_evaluation(tmp_path):
    folder = make_run(tmp_path / "a", lr=1e-5, wer=0.3, is_finished=False)
    (folder / "metrics.jsonl").unlink()
    summary = summarize_run(folder)
    assert (summary.wer, summary.best_step, summary.steps, summary.cer) == (None, None, 0, None)


@pytest.mark.parametrize("content", [None, "{", "[]", '{"settings": {}}', '{"settings": {}, "data": []}'])
def test_a_folder_that_holds_no_run(tmp_path, content):
    if content is not None:
        (tmp_path / "train.json").write_text(content)
    with pytest.raises(StateError, match=r"not the folder of a run: train.json is missing or damaged"):
        summarize_run(tmp_path)


def test_the_command(tmp_path, capsys):
    first = make_run(tmp_path / "first", lr=1e-5, wer=0.30)
    second = make_run(tmp_path / "second", lr=1e-4, wer=0.25, is_finished=False, data="other")
    assert run(["compare", str(first), str(second)]) == 0
    out, err = capsys.readouterr()
    lines = [line.split() for line in out.splitlines()]
    assert lines[1][:3] == [str(first), "30.00%", "28.00%"] and lines[2][1] == "25.00%"
    assert lines[2][-2:] == ["not", "finished"]
    assert lines[3:] == [["setting", str(first), str(second)], ["lr", "1e-05", "0.0001"]]
    assert "were evaluated on different data" in err
    assert run(["compare", str(first), "--all-settings"]) == 0
    assert "seed" in capsys.readouterr().out


def test_the_command_needs_a_run(capsys):
    assert run(["compare"]) == 1
    assert "compare: RUN is missing; give the folders of one run or more" in capsys.readouterr().err
