import re

import pytest

from whisper_shard.cli.commands.train import describe_skip
from whisper_shard.cli.main import run
from whisper_shard.train.events import NO_UTTERANCE, Skipped


def test_a_run_leaves_a_model_and_a_finished_run_is_not_repeated(folder, tmp_path, capsys):
    command = [
        "train",
        str(folder / "data"),
        str(tmp_path / "run"),
        "--model",
        str(folder / "tiny"),
        "--max-steps",
        "3",
    ]
    command += ["--batch-size", "4", "--workers", "0", "--max-new-tokens", "8", "--eval-limit", "2"]
    assert run(command) == 0
    shown = capsys.readouterr().out
    assert "17 utterances, 3 steps (5 per epoch)" in shown and "after 3 steps, best at step" in shown
    for name in ("metrics.jsonl", "report.json", "train.toml", "model/model.safetensors", "model/tokenizer.json"):
        assert (tmp_path / "run" / name).exists(), name
    assert run(command) == 0
    again = capsys.readouterr().out
    assert "this run is finished" in again and "per epoch" not in again
    assert shown.splitlines()[-1] == again.splitlines()[-1]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["--model", "./absent"], r"\./absent: no such model folder; give a folder"),
        (["--model", "{folder}/corpus"], r"/corpus: not a model folder, config\.json is missing"),
        (["--model", "{folder}/tiny", "--eval", "{folder}/data/train"], r"/data/train: 17 of 17 evaluation .* too"),
        (["--model", "{folder}/tiny", "--precision", "fp16"], "--precision fp16 does not work on a CPU"),
    ],
)
def test_what_cannot_be_trained_is_said_in_one_line(folder, tmp_path, command, message, capsys):
    flags = [flag.format(folder=folder) for flag in command]
    assert run(["train", str(folder / "data"), str(tmp_path / "run"), *flags, "--max-steps", "1"]) == 1
    shown = capsys.readouterr().err.strip()
    assert shown.startswith("error: ") and len(shown.splitlines()) == 1
    assert re.search(message, shown)


def test_a_skipped_step_names_its_utterances_if_they_are_at_fault():
    keys = tuple(f"utt{number}" for number in range(10))
    line = describe_skip(Skipped(step=3, keys=keys, reason="loss"))
    assert line == "step 3 skipped: loss not finite; utterances " + ", ".join(keys[:8]) + " and 2 more"
    line = describe_skip(Skipped(step=3, keys=(), reason="fp16 overflow"))
    assert line == "step 3 skipped: fp16 overflow, normal now and then"
    assert describe_skip(Skipped(step=3, keys=(), reason=NO_UTTERANCE)) == "step 3 skipped: no utterance left"
