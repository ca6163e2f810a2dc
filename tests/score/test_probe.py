import json
from dataclasses import replace

import pytest

from tests.conftest import WHISPER_BASE
from tests.making import make_dataset
from whisper_shard.cli.main import run
from whisper_shard.config.score import ScoreConfig
from whisper_shard.errors import ConfigError
from whisper_shard.inference.fallback import FallbackRules
from whisper_shard.score.events import ScoreProgress
from whisper_shard.score.probe import DECODING, probe_model
from whisper_shard.score.probe_report import describe_probe, find_worse

DIGITS = WHISPER_BASE.parents[1] / "data" / "spoken-digits"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("probe") / "eval", [2.0, 3.0, 2.5, 4.0] * 2)


@pytest.fixture
def briefly(monkeypatch):
    """A random model is never sure of its text, and names times close together: so few tokens hold only one."""
    once = replace(DECODING, max_new_tokens=3, fallback=FallbackRules(temperatures=(0.0,), max_no_speech=None))
    monkeypatch.setattr("whisper_shard.score.probe.DECODING", once)


def config(folder, **fields):
    return ScoreConfig(out=str(folder), probe=True, probe_minutes=0.5, probe_recordings=2, **fields)


@pytest.mark.usefixtures("briefly")
def test_a_model_is_no_worse_than_itself(tiny_folder, data, tmp_path):
    events = []
    found = probe_model(str(tiny_folder), data.location, config(tmp_path, against=str(tiny_folder)), events.append)
    whole = found.parts[0]
    assert whole.differences["WER"].difference == 0 and whole.differences["WER"].interval == (0, 0)
    assert list(find_worse(found)) == []
    assert events[-1] == ScoreProgress(
        window="long", num_done=found.num_utterances, num_utterances=found.num_utterances
    )
    lines = list(describe_probe(found))
    assert f"joined from {found.num_utterances} of 8 utterances by a fixed shuffle" in lines[0]
    assert "0.5 s of white noise" in lines[1] and "words left out" not in lines[1]
    assert lines[-1].startswith("difference: WER +0.00 points")
    value = json.loads((tmp_path / "probe.json").read_text())
    assert value["parts"]["all"]["model"]["wer"] == pytest.approx(whole.here.evaluation.score.wer)
    (recording,) = value["recordings"]
    assert recording["hypothesis"] == recording["base_hypothesis"]
    assert len(recording["utterances"]) == found.num_utterances
    assert any("guesses" in note for note in found.notes)


@pytest.mark.usefixtures("briefly")
def test_without_a_base_only_the_model_is_measured(tiny_folder, data, tmp_path):
    found = probe_model(str(tiny_folder), data.location, config(tmp_path, limit=2))
    assert found.base == "" and found.parts[0].there is None
    assert any("compared with no base model" in note and "--against BASE" in note for note in found.notes)
    assert json.loads(found.json_path.read_text())["base"] is None


@pytest.mark.usefixtures("briefly")
def test_the_base_is_the_model_that_the_run_names(tiny_folder, data, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model").symlink_to(tiny_folder)
    settings = tmp_path / "run" / "train.json"
    settings.write_text(json.dumps({"settings": {"model": str(tiny_folder)}}))
    model = str(tmp_path / "run" / "model")
    found = probe_model(model, data.location, config(tmp_path / "out", limit=2))
    assert found.base == str(tiny_folder)
    assert found.notes[0] == f"compared with {tiny_folder}, which the settings of the run name"
    settings.write_text(json.dumps({"settings": {"model": "some/hub-name"}}))
    found = probe_model(model, data.location, config(tmp_path / "out", limit=2))
    assert "the run names some/hub-name, which is no folder here" in found.notes[0]


@pytest.mark.usefixtures("briefly")
def test_the_command_prints_both_models_and_warns_of_few_recordings(tiny_folder, data, tmp_path, capsys):
    flags = ["--probe", "--limit", "3", "--against", str(tiny_folder), "--out", str(tmp_path)]
    assert run(["score", str(tiny_folder), str(data.location), *flags]) == 0
    shown = capsys.readouterr()
    assert "\n1 recording, 9.0 s, joined from 3 of 8" in shown.out and shown.out.count("words 100.0% left out") == 2
    assert "difference: WER +0.00 points (95 % interval +0.00 to +0.00; this may be chance)" in shown.out
    assert f"see {tmp_path / 'probe.json'}" in shown.out
    assert "intervals come from 1 recording only and are guesses" in shown.err


def test_the_base_must_be_a_model(tiny_folder, data, tmp_path):
    with pytest.raises(ConfigError, match="is no model, and with --probe both transcribe"):
        probe_model(str(tiny_folder), data.location, config(tmp_path, against=str(tmp_path)))


def test_settings_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="leave out --window, --beams"):
        ScoreConfig(probe=True, beams=2, window="full")
    with pytest.raises(ConfigError, match="is 600 minutes; at most 300 are probed"):
        ScoreConfig(probe_minutes=60, probe_recordings=10)


@pytest.mark.long
@pytest.mark.skipif(not DIGITS.is_dir(), reason="real speech is not beside the checkout")
def test_whisper_base_goes_through_joined_digits(whisper_base, tmp_path):
    rows = (DIGITS / "test.csv").read_text().splitlines()
    few = [row.replace("audios/", f"{DIGITS.resolve()}/audios/") for row in rows[1:200:8]]
    table = tmp_path / "few.csv"
    table.write_text("\n".join([rows[0], *few]) + "\n")
    short = ["--min-text-chars", "1", "--min-seconds", "0.05", "--eval-fraction", "0"]
    assert run(["prepare", str(table), str(tmp_path / "data"), *short]) == 0
    found = probe_model(whisper_base.path, tmp_path / "data" / "train", config(tmp_path / "out", language="en"))
    whole = found.parts[0]
    # Digits are written 7 or seven, so that errors say little; that little is left out says that it heard them all.
    assert whole.here.words.deletions < 0.2 * whole.here.words.num_reference
    assert whole.here.num_segments >= whole.num_recordings
    assert whole.here.times.median_seconds < 15
