"""Flags of other tools lead to ours or to none, never to a wrong one."""

import pytest

from whisper_shard.cli.commands import COMMANDS
from whisper_shard.cli.flags import load_config
from whisper_shard.config.hints import INSTEAD, NAMES_ELSEWHERE, REMARKS, hint_at_setting
from whisper_shard.config.settings import list_settings
from whisper_shard.errors import ConfigError

ALL_SETTINGS = {name for command in COMMANDS.values() for name in list_settings(command.config)}


def complain(command, flag):
    known = COMMANDS[command]
    with pytest.raises(ConfigError) as caught:
        load_config(known.config, command=command, argv=[flag], positionals={})
    return str(caught.value).removeprefix(f"whisper-shard {command}: unknown flag {flag}")


TRACKERS = "; name it: --tracker wandb, mlflow or trackio; metrics are always in RUN/metrics.jsonl"


@pytest.mark.parametrize(
    ("command", "flag", "hint"),
    [
        ("train", "--learning-rate", "; here it is --lr"),
        ("train", "--learning_rate=1e-4", None),
        ("train", "--num-train-epochs", "; here it is --epochs"),
        ("train", "--wandb", TRACKERS),
        ("train", "--report-to", TRACKERS),
        ("train", "--overwrite", "; the same command resumes; to train anew, name a new RUN"),
        ("train", "--num-workers", "; here it is --workers"),
        ("train", "--max-duration", "; here it is --batch-seconds (padded seconds per step; utterances are filtered "
         "by `prepare --max-seconds`)"),
        ("train", "--gradient-accumulation-steps", "; here it is --micro-batch (utterances per forward pass; "
         "batch_size stays that of a step)"),
        ("train", "--fp16", "; here it is --precision"),
        ("prepare", "--num-workers", "; here it is --jobs"),
        ("prepare", "--overwrite", "; here it is --rebuild"),
        ("prepare", "--max-duration", "; here it is --max-seconds (of an utterance)"),
        ("prepare", "--learning-rate", ""),
        ("prepare", "--wandb", ""),
        ("prepare", "--report-to", ""),
        ("prepare", "--output-dir", "; OUT is the second argument, without a flag"),
        ("prepare", "--min-chars", "; here it is --min-text-chars"),
        ("score", "--num-workers", ""),
        ("score", "--num-beams", "; here it is --beams"),
        ("transcribe", "--device", "; a GPU is used if there is one"),
        ("transcribe", "--model", "; MODEL is the first argument, without a flag"),
        ("transcribe", "--output-dir", "; here it is --output"),
        ("transcribe", "--output-format", "; here it is --format"),
        ("transcribe", "--vad-filter", "; here it is --vad"),
        ("transcribe", "--beam-size", "; it takes the most probable token, see --temperatures"),
        ("prepare", "--vad", "; here it is --segment (vad)"),
        ("verify", "--overwrite", ""),
        ("bench", "--num-workers", "; here it is --workers"),
        ("train", "--local-files-only", ""),
        ("train", "--deepspeed", ""),
    ],
)  # fmt: skip
def test_flags_of_other_tools_lead_to_ours_or_to_none(command, flag, hint):
    if hint is None:  # underscores and a value do not matter
        flag, hint = "--learning-rate", "; here it is --lr"
        assert "unknown flag --learning-rate; here it is --lr" in complain(command, "--learning_rate=1e-4")
    assert complain(command, flag) == hint


def test_names_that_only_look_alike_are_not_suggested():
    known = list(list_settings(COMMANDS["train"].config))
    for name in ("eval_strategy", "max_length", "min_length", "save_total_limit", "log_level", "optim", "max_chars"):
        assert hint_at_setting(name, known) == "", name


def test_misspelt_names_are_corrected():
    known = list(list_settings(COMMANDS["train"].config))
    for name in known:
        if len(name) > 6:
            assert hint_at_setting(name[:3] + name[4:], known) == f"; did you mean {name!r}?"


def test_every_hint_is_about_a_setting_that_exists():
    assert set(NAMES_ELSEWHERE) <= ALL_SETTINGS
    assert set(REMARKS) <= set(NAMES_ELSEWHERE)
    assert set(INSTEAD) <= set(COMMANDS)


def test_no_setting_is_called_like_the_one_of_another_tool_in_the_same_command():
    for name, command in COMMANDS.items():
        known = list_settings(command.config)
        for setting in known:
            for elsewhere in NAMES_ELSEWHERE.get(setting, ()):
                assert hint_at_setting(elsewhere, list(known), command=name).count(";") >= 1


def test_toml_gets_the_same_hints(tmp_path):
    file = tmp_path / "recipe.toml"
    file.write_text("[train]\nlearning_rate = 1e-5\n")
    with pytest.raises(ConfigError, match=r"\[train\] has no setting 'learning_rate'; here it is lr$"):
        load_config(COMMANDS["train"].config, command="train", argv=["--config", str(file)], positionals={})
