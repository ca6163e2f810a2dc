"""Flags override the TOML file; every mistake is named in one line."""

import dataclasses
import io
import re
import sys
from pathlib import Path

import pytest

from whisper_shard.cli.commands import COMMANDS
from whisper_shard.cli.flags import load_config
from whisper_shard.config.plugins import list_plugin_settings
from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.config.score import ScoreConfig
from whisper_shard.config.settings import list_settings
from whisper_shard.config.stream import StreamConfig
from whisper_shard.config.tools import BenchConfig
from whisper_shard.config.train import TrainConfig
from whisper_shard.errors import ConfigError

KINDS = (PrepareConfig, StreamConfig, BenchConfig, TrainConfig, ScoreConfig)
PATHS = {"corpus": "the manifest", "out": "the output"}


def load(*argv, kind=PrepareConfig, command="prepare", positionals=PATHS):
    return load_config(kind, command=command, argv=argv, positionals=positionals)


def test_flags_and_positionals_may_stand_in_any_order():
    config, paths = load("--jobs", "2", "a.csv", "--trim-db=-0", "out")
    assert (config.jobs, config.trim_db, paths) == (2, 0.0, {"corpus": "a.csv", "out": "out"})


def test_flags_override_the_toml_file(tmp_path):
    file = tmp_path / "recipe.toml"
    file.write_text('[prepare]\nmin_seconds = 0.25\njobs = 3\ndry_run = true\n[[prepare.filters]]\nkind = "x"\ny = 1\n')
    config, _ = load("a", "b", "--config", str(file), "--jobs", "1")
    assert (config.min_seconds, config.jobs, config.dry_run) == (0.25, 1, True)
    assert config.filters == ({"kind": "x", "y": 1},)


def test_lists_in_toml_leave_the_positionals_alone(tmp_path):
    file = tmp_path / "recipe.toml"
    file.write_text('[train]\nlr = 2e-5\nmix = ["more/train", "most/train"]\nweights = [1, 0.5, 2]\n')
    argv = ["--config", str(file), "data", "run"]
    config, paths = load_config(TrainConfig, command="train", argv=argv, positionals={"dataset": "", "run": ""})
    assert (config.stream.mix, config.stream.weights, config.optimizer.lr) == (
        ("more/train", "most/train"),
        (1.0, 0.5, 2.0),
        2e-5,
    )
    assert paths == {"dataset": "data", "run": "run"}


def test_other_commands_tables_do_not_matter(tmp_path):
    file = tmp_path / "recipe.toml"
    file.write_text("[train]\nlr = 3e-5\nresume = false\nmargin_seconds = [0.5, 1]\n")
    assert load("a", "b", f"--config={file}")[0] == PrepareConfig()
    config, _ = load("--config", str(file), kind=TrainConfig, command="train", positionals={})
    assert (config.optimizer.lr, config.saving.resume, config.window.margin_seconds) == (3e-5, False, (0.5, 1.0))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[prepare]\nmin_secnds = 1", r"\[prepare\] has no setting 'min_secnds'; did you mean 'min_seconds'\?"),
        ("[prepar]\nx = 1", r"unknown table \[prepar\]; did you mean 'prepare'\?; there are prepare, "),
        ("[prepare\n", r"recipe.toml: not valid TOML"),
        ("[prepare]\nfilters = 3", r"\[prepare\] filters must be a list of tables: \[\[prepare.filters\]\]"),
        ("[prepare.jobs]\nx = 1", r"jobs must be a plain value"),
        ('[prepare]\njobs = "many"', r"--jobs.*many"),
        ('[prepare]\nrebuild = "no"', r"\[prepare\] rebuild is 'no'; it must be true or false"),
        ("[prepare]\njobs = [1, 2]", r"\[prepare\] jobs is \[1, 2\]; it must be one value, not a list"),
        ("jobs = 1", r"jobs is outside of any table; put it below \[prepare\]"),
    ],
)
def test_mistakes_in_toml_are_named(tmp_path, content, message):
    file = tmp_path / "recipe.toml"
    file.write_text(content)
    with pytest.raises(ConfigError, match=message):
        load("a", "b", "--config", str(file))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["a", "b", "--min-secnds", "1"], r"unknown flag --min-secnds; did you mean '--min-seconds'\?"),
        (["a", "b", "--jobs", "many"], r"prepare: --jobs is 'many'; it must be a whole number; see .* --help"),
        (["a", "b", "--peak", "loud"], r"prepare: --peak is 'loud'; it must be a number; see"),
        (["a", "b", "--seed"], r"prepare: --seed needs a value; see"),
        (["a", "b", "--codec", "mp3"], r"prepare: --codec is 'mp3'; it must be one of 'npy', 'flac'; see"),
        (["a", "b", "c"], r"prepare: unexpected c: it is not a flag, and no argument is missing; see"),
        (["a", "b", "--config"], r"--config needs a file"),
        (["a", "b", "--config", "absent.toml"], r"absent.toml: cannot read the configuration: No such file"),
        (["a", "b", "--min-seconds", "9", "--max-seconds", "3"], r"--min-seconds 9 and --max-seconds 3"),
        (["a", "b", "--eval-fraction", "1.5"], r"--eval-fraction is 1.5; it must lie between 0 and 0.9"),
        (["a"], r"prepare: needs OUT \(the output\); see"),
    ],
)
def test_mistakes_on_the_command_line_are_named(argv, message):
    with pytest.raises(ConfigError, match=message):
        load(*argv)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--margin-seconds", "1"], r"--margin-seconds needs 2 values; see"),
        (["--weights", "1", "all"], r"--weights is '1', 'all'; it must be numbers; see"),
        (["--micro-batch", "some"], r"--micro-batch is 'some'; it must be \{auto\}\|INT; see"),
    ],
)
def test_mistakes_in_pairs_and_lists_are_named(argv, message):
    with pytest.raises(ConfigError, match=message):
        load_config(TrainConfig, command="train", argv=argv, positionals={})


def test_help_shows_no_flag_that_does_not_exist(capsys):
    with pytest.raises(SystemExit):
        load_config(TrainConfig, command="train", argv=["--help"], positionals={})
    shown = capsys.readouterr().out
    assert "Only there: [[train.augment]]." in shown
    assert "--augment" not in shown


def test_every_shipped_recipe_loads():
    recipes = sorted(Path("configs").glob("*.toml"))
    assert recipes
    kinds = {"prepare": PrepareConfig, "train": TrainConfig, "score": ScoreConfig, "bench": BenchConfig}
    for recipe in recipes:
        for command, kind in kinds.items():
            config, _ = load_config(kind, command=command, argv=["--config", str(recipe)], positionals={})
            assert dataclasses.is_dataclass(config)


def show_help(capsys, command):
    known = COMMANDS[command]
    with pytest.raises(SystemExit):
        load_config(
            known.config, command=command, argv=["--help"], positionals=known.positionals, repeated=known.repeated
        )
    return capsys.readouterr().out


@pytest.mark.parametrize("command", list(COMMANDS))
def test_help_shows_no_empty_default_and_every_setting(capsys, command):
    shown = show_help(capsys, command)
    assert "default: ''" not in shown and "default: )" not in shown
    assert "default: )" not in shown
    plugins = list_plugin_settings(COMMANDS[command].config)
    for name in list_settings(COMMANDS[command].config):
        assert name in plugins or f"--{name.replace('_', '-')}" in shown


def test_help_comes_in_groups(capsys):
    shown = show_help(capsys, "prepare")
    titles = re.findall(r"^\W+(\w+)(?: options| arguments)? \W+$", shown, re.MULTILINE)
    assert titles == ["positional", "options", "corpus", "waveform", "text", "filter", "output", "run"]
    assert shown.index("--trim-db") > shown.index("waveform options")


@pytest.mark.parametrize("no_color", ["1", ""])
def test_help_honours_no_color(capfd, monkeypatch, no_color):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(sys, "stdout", terminal := Terminal())
    with pytest.raises(SystemExit):
        load_config(PrepareConfig, command="prepare", argv=["--help"], positionals=PATHS)
    assert "--trim-db" in terminal.getvalue()
    assert ("\x1b[" in terminal.getvalue()) == (not no_color)


@pytest.mark.parametrize(
    ("argv", "paths"),
    [
        (["model", "--window", "full", "data"], {"model": "model", "dataset": "data"}),
        (["--hypotheses", "a.csv", "data"], {"model": "", "dataset": "data"}),
        (["--hypotheses=a.csv", "data", "--limit", "0"], {"model": "", "dataset": "data"}),
    ],
)
def test_a_setting_stands_for_an_argument(argv, paths):
    known = COMMANDS["score"]
    names = {"positionals": known.positionals, "replaced": known.replaced}
    assert load_config(known.config, command="score", argv=argv, **names)[1] == paths


def test_an_argument_that_a_setting_stands_for_is_too_much():
    known = COMMANDS["score"]
    names = {"positionals": known.positionals, "replaced": known.replaced}
    with pytest.raises(ConfigError, match="score: unexpected data: it is not a flag, and no argument is missing"):
        load_config(known.config, command="score", argv=["model", "data", "--hypotheses", "a.csv"], **names)
    with pytest.raises(ConfigError, match=r"score: needs DATASET"):
        load_config(known.config, command="score", argv=["data"], **names)
