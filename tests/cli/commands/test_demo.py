"""The parts of the demo; `make demo` runs all of it."""

import json

import pytest

from whisper_shard.cli.commands import demo
from whisper_shard.cli.main import run
from whisper_shard.errors import TrainingError


def write_score(path, wer):
    path.write_text(json.dumps({"form": "basic", "windows": {"full": {"scores": {"basic": {"wer": wer}}}}}))
    return path


def test_corpus_only_stops_after_the_corpus(tmp_path, capsys):
    assert run(["demo", str(tmp_path), "--corpus-only", "--utterances", "3"]) == 0
    recipe = tmp_path / "demo.toml"
    assert f"a corpus of 9 recordings is in {tmp_path / 'corpus'}, its settings in {recipe}" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus", "demo.toml"]
    flags = ["--config", str(recipe), "--dry-run"]
    assert run(["prepare", str(tmp_path / "corpus/corpus.csv"), str(tmp_path / "data"), *flags]) == 0


def test_the_demo_ends_where_a_command_fails(tmp_path, capfd):
    with pytest.raises(SystemExit) as stopped:
        demo._run("verify", tmp_path / "nowhere")
    assert stopped.value.code == 1
    shown = capfd.readouterr()
    assert f"$ whisper-shard verify {tmp_path / 'nowhere'}" in shown.out and "no finished dataset here" in shown.err


def test_a_model_that_has_not_learned_is_an_error(tmp_path):
    demo.check_wer(write_score(tmp_path / "good.json", demo.EXPECTED_WER))
    with pytest.raises(TrainingError, match=r"ends with a WER of 65\.0%; at most 20% was expected: try --steps 800"):
        demo.check_wer(write_score(tmp_path / "bad.json", 0.65))
