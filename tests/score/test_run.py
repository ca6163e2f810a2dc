import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.making import make_dataset
from tests.report.reading import Page
from whisper_shard.config.score import ScoreConfig
from whisper_shard.dataset.writer import write_dataset
from whisper_shard.demo.tiny_whisper import make_tiny_whisper
from whisper_shard.errors import ConfigError, EnvironmentFault, TrainingError
from whisper_shard.score.events import ScoreProgress
from whisper_shard.score.run import default_folder, score_model
from whisper_shard.score.table import TABLE_SCHEMA
from whisper_shard.storage.location import parse_location


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("score")
    make_tiny_whisper(
        folder / "model", texts=["one"], width=32, encoder_layers=1, decoder_layers=1, heads=2, max_seconds=6
    )
    make_dataset(folder / "data" / "eval", [1.0, 2.0, 1.5, 3.0, 2.5, 0.5], speakers=2)
    events = []
    config = ScoreConfig(eval_batch=4, max_new_tokens=5)
    found = score_model(str(folder / "model"), folder / "data" / "eval", config, events.append)
    return found, events


def test_both_windows_and_all_forms_are_scored(report):
    found, events = report
    assert [window.window for window in found.windows] == ["full", "short"]
    assert found.num_utterances == 6
    assert found.audio_seconds == pytest.approx(10.5)
    assert found.score is found.windows[0].scores["basic"]
    assert set(found.windows[0].scores) == {"raw", "basic", "whisper"}
    assert events[-1] == ScoreProgress(window="short", num_done=6, num_utterances=6)
    assert [event.num_done for event in events] == [4, 6, 4, 6]


def test_slices_sum_to_the_whole(report):
    found, _ = report
    kinds = {part.kind for part in found.windows[0].slices}
    assert kinds == {"seconds", "speaker"}
    for kind in kinds:
        parts = [part for part in found.windows[0].slices if part.kind == kind]
        assert sum(part.num_utterances for part in parts) == 6
        assert sum(part.words.errors for part in parts) == found.score.words.errors
        assert sum(part.seconds for part in parts) == pytest.approx(10.5)
    assert {part.name for part in found.windows[0].slices if part.kind == "speaker"} == {"speaker0", "speaker1"}


def test_json_says_what_the_report_says(report):
    found, _ = report
    assert found.json_path.parent.name == "score-eval"
    value = json.loads(found.json_path.read_text())
    full = value["windows"]["full"]
    assert full["scores"]["basic"]["wer"] == pytest.approx(found.score.wer)
    assert full["scores"]["basic"]["cer"] == pytest.approx(found.score.cer)
    assert full["scores"]["basic"]["interval"] == list(found.score.interval)
    assert [row["key"] for row in full["utterances"]] == [f"utt{i:05d}" for i in range(6)]
    assert full["scores"]["basic"]["cer_interval"] == list(found.score.cer_interval)
    assert full["real_time_factor"] == pytest.approx(full["seconds"] / 10.5, abs=0.001 / 10.5)  # both are rounded
    assert full["outputs"]["num_utterances"] == 6 and full["outputs"]["num_capped"] == full["cap_hits"]
    assert value["settings"]["precision"] == "float32" and value["settings"]["text form"] == "basic"


def test_the_table_has_every_hypothesis(report):
    found, _ = report
    table = pq.read_table(found.table_path)
    assert table.schema == TABLE_SCHEMA
    rows = table.to_pylist()
    assert [(row["window"], row["key"]) for row in rows] == [
        (window, f"utt{i:05d}") for window in ("full", "short") for i in range(6)
    ]
    for window in found.windows:
        mine = [row for row in rows if row["window"] == window.window]
        assert [row["hypothesis"] for row in mine] == [row.hypothesis for row in window.utterances]
        errors = sum(row["substitutions"] + row["deletions"] + row["insertions"] for row in mine)
        assert errors == window.scores["basic"].words.errors
        assert sum(row["num_words"] for row in mine) == window.scores["basic"].words.num_reference
        assert [row["seconds"] for row in mine] == [1.0, 2.0, 1.5, 3.0, 2.5, 0.5]


def test_page_needs_nothing_else(report):
    found, _ = report
    page = Page(found.html_path.read_text())
    assert f"WER {found.score.wer:.2%}" in page.text
    assert "speaker0" in page.text
    wrong = sum(row.words.errors > 0 for row in found.score.utterances)
    assert page.count("audio") == wrong > 0


def test_players_can_be_left_out(report, tmp_path):
    found, _ = report
    config = ScoreConfig(window="short", max_new_tokens=2, limit=2, players=False, out=str(tmp_path / "out"))
    silent = score_model(found.model, found_dataset(found), config)
    assert Page(silent.html_path.read_text()).count("audio") == 0


def test_limit_takes_fewer_and_says_so(report, tmp_path):
    found, _ = report
    config = ScoreConfig(window="short", limit=2, max_new_tokens=2, out=str(tmp_path / "out"))
    events = []
    few = score_model(found.model, found_dataset(found), config, events.append)
    assert few.num_utterances == 2
    assert events[-1].num_utterances == 2
    assert [window.window for window in few.windows] == ["short"]
    assert (tmp_path / "out" / "score.html").is_file()


def test_reports_of_hub_models_go_to_the_current_folder(tmp_path):
    evaluation = parse_location(tmp_path / "eval")
    assert default_folder(str(tmp_path), evaluation) == tmp_path / "score-eval"
    assert default_folder("openai/whisper-base", evaluation) == Path("score-openai-whisper-base-eval")
    bucket = parse_location("s3://corpora/german/eval")
    assert default_folder("openai/whisper-base", bucket) == Path("score-openai-whisper-base-eval")


def found_dataset(found):
    return Path(found.dataset)


def test_swapped_arguments_are_recognized(report):
    found, _ = report
    data = Path(found.model).parent / "data" / "eval"
    with pytest.raises(ConfigError, match=rf"the model comes first: whisper-shard score {found.model} {data}$"):
        score_model(str(data), found.model, ScoreConfig())


def test_an_empty_dataset_is_an_error(report, tmp_path):
    found, _ = report
    (tmp_path / "empty").mkdir()
    write_dataset(tmp_path / "empty", shards=[], tables=[], meta={})
    with pytest.raises(TrainingError, match="the dataset is empty, there is nothing to score"):
        score_model(found.model, tmp_path / "empty", ScoreConfig())


def test_a_report_that_cannot_be_written_is_the_machines_fault(report, tmp_path):
    found, _ = report
    (tmp_path / "file").touch()
    config = ScoreConfig(window="short", limit=1, max_new_tokens=1, out=str(tmp_path / "file" / "out"))
    with pytest.raises(EnvironmentFault, match="file/out"):
        score_model(found.model, found_dataset(found), config)
