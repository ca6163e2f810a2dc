import re
from dataclasses import replace
from types import SimpleNamespace

import pytest

from whisper_shard.cli.commands import train
from whisper_shard.cli.commands.train import describe_skip
from whisper_shard.cli.main import run
from whisper_shard.train.events import NO_UTTERANCE, Advanced, Estimated, Evaluating, Preparing, Skipped


@pytest.mark.slow
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
    command += ["--batch-size", "4", "--workers", "0", "--max-new-tokens", "8", "--eval-limit", "2", "--shard", "all"]
    assert run(command) == 0
    shown = capsys.readouterr().out
    assert "--shard all changes nothing with one rank; bin/train-ddp starts several" in shown
    assert "17 utterances, 3 steps (5 per epoch)" in shown and "(100.0%)" in shown and "s of audio (" in shown
    assert "memory of the largest pass (" in shown and "optimizer " in shown and "after 3 steps, best at step" in shown
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


def test_the_line_that_moves_says_how_long_evaluations_and_the_run_take(monkeypatch):
    clock, lines = [0.0], []
    monkeypatch.setattr(train.time, "monotonic", lambda: clock[0])
    view = train.TrainingView(
        SimpleNamespace(
            say=lines.append, wait=lines.append, update=lambda done, total, note: lines.append(f"{done}/{total} {note}")
        )
    )
    view(Preparing(what="loading tiny"))
    view(Evaluating(num_done=0, num_utterances=40, window="full"))
    clock[0] = 30.0
    view(Evaluating(num_done=10, num_utterances=40, window="full"))
    view(Advanced(step=3, total_steps=5, remaining_seconds=90.0))
    assert lines == [
        "loading tiny",
        "0/40 utterances scored, 30 s windows",
        "10/40 utterances scored, 30 s windows, 1.5 min to go",
        "3/5 steps, 1.5 min to go",
    ]


def test_a_line_about_how_long_the_run_will_take():
    event = Estimated(remaining_seconds=7500, steps=1, step_seconds=4.2, evaluations=3, evaluation_seconds=90)
    assert train.describe_estimate(event) == (
        "about 2.1 h to go, if it does not stop early: 1 step of 4.2 s, 3 evaluations of 1.5 min"
    )
    event = replace(event, steps=2, evaluation_seconds=0)
    assert train.describe_estimate(event).endswith("2 steps of 4.2 s; evaluations come on top")
