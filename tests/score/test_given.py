"""Scores of given hypotheses and of earlier scores, and comparisons with them, through the function of the command."""

import csv
import json
import math
import shutil
import subprocess
import sys
from dataclasses import replace

import pyarrow.parquet as pq
import pytest

from tests.making import WORDS, make_dataset
from tests.report.reading import Page
from whisper_shard.config.score import ScoreConfig
from whisper_shard.demo.tiny_whisper import make_tiny_whisper
from whisper_shard.errors import ConfigError, DatasetError
from whisper_shard.score.columns import score_columns
from whisper_shard.score.run import score_hypotheses, score_model


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two models, a dataset, a score by the first, and a file with nearly perfect hypotheses."""
    folder = tmp_path_factory.mktemp("given")
    for seed, name in enumerate(("model", "other")):
        sizes = {"width": 32, "encoder_layers": 1, "decoder_layers": 1, "heads": 2, "max_seconds": 3}
        make_tiny_whisper(folder / name, texts=WORDS, seed=seed, **sizes)
    data = make_dataset(folder / "eval", [1.0, 2.0, 1.5, 0.5], speakers=2)
    columns = data.columns("key", "text")
    with (folder / "given.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["key", "text"])
        writer.writerows(list(zip(columns["key"], columns["text"], strict=True))[:3])
        writer.writerow(["nobody", "one"])
    score_model(str(folder / "model"), folder / "eval", config())
    return folder


def config(**changes):
    return ScoreConfig(**{"eval_batch": 4, "max_new_tokens": 5, **changes})


def test_a_file_is_scored_without_a_model(place):
    report = score_hypotheses(place / "given.csv", place / "eval", config())
    assert report.json_path.parent == place / "score-given.csv-eval"
    (window,) = report.windows
    assert window.window == "given" and math.isnan(window.loss)
    words = window.scores["basic"].words
    assert words.errors == words.deletions == 1  # the one utterance that has no hypothesis
    assert window.outputs.num_empty == 1
    assert [warning.partition(": ")[2][:6] for warning in report.warnings[:2]] == ["1 of 4", "1 of 4"]
    value = json.loads(report.json_path.read_text())
    assert value["windows"]["given"]["loss"] is None and value["windows"]["given"]["real_time_factor"] is None
    assert value["settings"]["texts"] == "4 texts of column text by key"
    page = Page(report.html_path.read_text())
    assert page.count("audio") == 1 and "real-time factor" not in page.text


def test_without_audio_there_are_numbers_but_no_players(place, tmp_path):
    shutil.copytree(place / "eval", tmp_path / "eval")
    shutil.rmtree(tmp_path / "eval/shards")
    report = score_hypotheses(place / "given.csv", tmp_path / "eval", config(out=str(tmp_path / "out")))
    assert json.loads(report.json_path.read_text())["windows"]["given"]["scores"]["basic"]["deletions"] == 1
    assert "score.html has no players: " in report.warnings[-1] and "000000.tar" in report.warnings[-1]
    page = Page(report.html_path.read_text())
    assert page.count("audio") == 0 and "score.html has no players" in page.text


def test_one_process_writes_a_report(place, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    message = r"WORLD_SIZE is 4 .*: share the work out by --write-columns NAME, then score --hypotheses .*NAME.parquet"
    with pytest.raises(ConfigError, match=message):
        score_model(str(place / "model"), place / "eval", config())


def test_work_that_was_shared_out_becomes_a_report(place, tmp_path):
    shutil.copytree(place / "eval", tmp_path / "eval")
    alone = score_model(str(place / "model"), place / "eval", config(out=str(tmp_path / "alone")))
    given = ScoreConfig(eval_batch=2, max_new_tokens=5, write_columns="first")
    for rank in ("1/2", "2/2"):
        score_columns(str(place / "model"), tmp_path / "eval", replace(given, slice=rank), lambda _: None)
    joined = score_hypotheses(tmp_path / "eval/columns/first.parquet", tmp_path / "eval", config())
    assert joined.score == alone.score
    assert joined.windows[0].outputs == alone.windows[0].outputs


def test_scoring_a_file_does_not_import_torch(place, tmp_path):
    code = (
        "import sys\n"
        "from whisper_shard.cli.main import run\n"
        "code = run(sys.argv[1:])\n"
        "print(code, {'torch', 'transformers', 'webdataset'} & set(sys.modules))\n"
    )
    argv = ["score", "--hypotheses", place / "given.csv", place / "eval", "--against", place / "model/score-eval"]
    command = [sys.executable, "-c", code, *map(str, argv), "--out", str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "0 set()"
    assert "against" in ran.stdout and "fewer errors in" in ran.stdout


def test_an_earlier_score_is_cut_anew_and_keeps_its_numbers(place, tmp_path):
    before = json.loads((place / "model/score-eval/score.json").read_text())
    again = score_hypotheses(place / "model/score-eval", place / "eval", config(by=("seconds:1.2",), out=str(tmp_path)))
    after = json.loads(again.json_path.read_text())
    assert list(after["windows"]) == ["full", "short"] and after["model"] == before["model"]
    for name in ("scores", "utterances", "outputs", "loss", "seconds"):
        assert after["windows"]["full"][name] == before["windows"]["full"][name]
    assert [part["name"] for part in after["windows"]["full"]["slices"]] == ["below 1.2 s", "1.2 s and more"]
    assert after["settings"] == before["settings"]
    assert pq.read_table(again.table_path).equals(pq.read_table(place / "model/score-eval/score.parquet"))


def test_times_are_scored_and_kept(place, tmp_path):
    given = config(window="full", max_new_tokens=16, timestamps=True, out=str(tmp_path / "times"))
    report = score_model(str(place / "model"), place / "eval", given)
    assert report.windows[0].times.num_times == 0  # the data has one phrase an utterance
    rows = pq.read_table(report.table_path).to_pylist()
    assert all(row["phrases"] is not None and len(row["reference_phrases"]) == 1 for row in rows)
    assert any(row["phrases"] for row in rows)
    assert report.settings["search"] == "greedy, with times"
    again = score_hypotheses(tmp_path / "times", place / "eval", config(out=str(tmp_path / "again")))
    assert pq.read_table(again.table_path).to_pylist() == rows
    assert "with times; no utterance of the data" in Page(again.html_path.read_text()).text
    with pytest.raises(ConfigError, match="--timestamps decodes greedily for a report: leave out --beams and"):
        config(timestamps=True, beams=2)


def test_another_model_is_scored_in_the_same_windows(place, tmp_path):
    report = score_model(
        str(place / "model"), place / "eval", config(window="short", against=str(place / "other"), out=str(tmp_path))
    )
    found = report.comparison
    alone = score_model(str(place / "other"), place / "eval", config(window="short", out=str(tmp_path / "alone")))
    assert (found.window, found.other_window) == ("short", "short")
    assert found.there == alone.score and found.here == report.score
    value = json.loads(report.json_path.read_text())["against"]
    assert (value["name"], value["other_wer"]) == (str(place / "other"), alone.score.wer)


def test_scores_of_the_same_windows_are_compared(place, tmp_path):
    report = score_model(
        str(place / "other"),
        place / "eval",
        config(window="short", against=str(place / "model/score-eval"), out=str(tmp_path)),
    )
    assert report.comparison.other_window == "short"
    assert f"Against {place / 'model/score-eval'}" in Page(report.html_path.read_text()).text


def test_a_file_is_compared_with_what_was_decoded(place, tmp_path):
    given = config(window="short", limit=2, against=str(place / "given.csv"), out=str(tmp_path))
    report = score_model(str(place / "model"), place / "eval", given)
    assert len(report.comparison.there.utterances) == 2


def test_other_data_is_refused_before_anything_is_decoded(place, tmp_path):
    make_dataset(tmp_path / "set", [1.0], prefix="new")
    with pytest.raises(
        DatasetError, match=r"--against .*score-eval: was scored on other data: 4 of its 4 utterances are"
    ):
        score_model("no model", tmp_path / "set", config(against=str(place / "model/score-eval")))
    with pytest.raises(DatasetError, match=r"score-eval: was scored on other data: 4 of its 4 utterances are not in"):
        score_hypotheses(place / "model/score-eval", tmp_path / "set", config())


def test_a_score_of_fewer_utterances_is_refused_as_a_comparison(place, tmp_path):
    few = score_model(str(place / "model"), place / "eval", config(window="short", limit=3, out=str(tmp_path / "few")))
    with pytest.raises(DatasetError, match=r"3 there, 4 here, 1 are not in it .*; score both .* with the same --limit"):
        score_hypotheses(place / "given.csv", place / "eval", config(against=str(few.json_path.parent)))
    again = score_hypotheses(few.json_path.parent, place / "eval", config(out=str(tmp_path / "again")))
    assert "3 of 4 utterances were scored there" in again.warnings[0]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("eval", r"holds neither a score \(score.json\) nor a model \(config.json\)"),
        ("absent", "does not exist; give the folder of a score, a file or a model"),
    ],
)
def test_what_cannot_be_compared_with_is_named(place, name, words):
    with pytest.raises(ConfigError, match=rf"--against .*{name}: {words}"):
        score_hypotheses(place / "given.csv", place / "eval", config(against=str(place / name)))


def test_what_cannot_be_scored_is_named(place):
    with pytest.raises(ConfigError, match=r"--hypotheses .*absent.csv: does not exist; give a file"):
        score_hypotheses(place / "absent.csv", place / "eval", config())
    with pytest.raises(ConfigError, match=r"--hypotheses .*eval: is a folder without score.json; give a file"):
        score_hypotheses(place / "eval", place / "eval", config())


def test_a_damaged_score_is_named(place, tmp_path):
    (tmp_path / "score.json").write_text("{}")
    with pytest.raises(DatasetError, match=r"no score can be read there .*; score again"):
        score_hypotheses(tmp_path, place / "eval", config())


def test_settings_that_do_not_go_together():
    with pytest.raises(ConfigError, match="--limit chooses what is decoded: leave it out with --hypotheses"):
        ScoreConfig(hypotheses="a.csv", limit=3)
    with pytest.raises(ConfigError, match="--write-columns only stores columns: leave out --hypotheses, --against and"):
        ScoreConfig(write_columns="first", against="model")
