"""TOML first, flags after; every mistake named in one line."""

import ast
import dataclasses
import inspect
import math
from pathlib import Path

import pytest

from whisper_shard.cli.flags import load_config
from whisper_shard.config import stream as config_module
from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.config.score import ScoreConfig
from whisper_shard.config.stream import GUIDE_AUGMENT, StreamConfig
from whisper_shard.config.toml import dump_config
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


def test_flags_stand_over_the_toml_file(tmp_path):
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
    assert (config.mix, config.weights, config.lr) == (("more/train", "most/train"), (1.0, 0.5, 2.0), 2e-5)
    assert paths == {"dataset": "data", "run": "run"}


def test_other_commands_tables_do_not_matter(tmp_path):
    file = tmp_path / "recipe.toml"
    file.write_text("[train]\nlr = 3e-5\nresume = false\nmargin_seconds = [0.5, 1]\n")
    assert load("a", "b", f"--config={file}")[0] == PrepareConfig()
    config, _ = load("--config", str(file), kind=TrainConfig, command="train", positionals={})
    assert (config.lr, config.resume, config.margin_seconds) == (3e-5, False, (0.5, 1.0))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[prepare]\nmin_secnds = 1", r"\[prepare\] has no knob 'min_secnds'; did you mean 'min_seconds'\?"),
        ("[prepar]\nx = 1", r"unknown table \[prepar\]; did you mean 'prepare'\?; there are prepare, "),
        ("[prepare\n", r"recipe.toml: not valid TOML"),
        ("[prepare]\nfilters = 3", r"filters must be a list of tables"),
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


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        (PrepareConfig, {"min_seconds": 0.25, "filters": ({"kind": "x", "y": [1, 2.5, "z"]},), "eval_corpus": 'a "b"'}),
        (TrainConfig, {"augment": (), "margin_seconds": (0.0, 3.0), "lr": 1e-7, "resume": False}),
        (BenchConfig, {"augment": GUIDE_AUGMENT}),
        (TrainConfig, {"augment": ({"kind": "OneOf", "transforms": [{"kind": "Gain", "p": 1.0}], "p": 0.5},)}),
    ],
)
def test_a_dumped_configuration_reads_back_the_same(tmp_path, kind, changes):
    config = kind(**changes)
    file = tmp_path / "config.toml"
    file.write_text(dump_config(config, "train"))
    assert load_config(kind, command="train", argv=["--config", str(file)], positionals={})[0] == config


def test_every_knob_has_a_docstring():
    tree = ast.parse(inspect.getsource(config_module))
    for node in tree.body:
        if not isinstance(node, ast.ClassDef):
            continue
        for knob, following in zip(node.body, [*node.body[1:], None], strict=True):
            if isinstance(knob, ast.AnnAssign):
                documented = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
                assert documented, f"{node.name}.{ast.unparse(knob.target)} has no docstring"
                assert "\n" not in following.value.value, (
                    f"{ast.unparse(knob.target)}: --help would keep the line break"
                )


def test_every_shipped_recipe_loads():
    recipes = sorted(Path("configs").glob("*.toml"))
    assert recipes
    kinds = {"prepare": PrepareConfig, "train": TrainConfig, "score": ScoreConfig, "bench": BenchConfig}
    for recipe in recipes:
        for command, kind in kinds.items():
            config, _ = load_config(kind, command=command, argv=["--config", str(recipe)], positionals={})
            assert dataclasses.is_dataclass(config)


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        (StreamConfig, {"batch_size": 0}, r"--batch-size is 0; it must lie between 1 and 1e\+06"),
        (StreamConfig, {"batch_seconds": -1.0}, r"--batch-seconds is -1; it must lie between 0 and 1e\+07"),
        (StreamConfig, {"batch_seconds": math.nan}, r"--batch-seconds is nan; "),
        (StreamConfig, {"length_buckets": 257}, r"--length-buckets is 257; it must lie between 1 and 256"),
        (StreamConfig, {"workers": -1}, r"--workers is -1; it must lie between 0 and 1024"),
        (StreamConfig, {"prefetch": 0}, r"--prefetch is 0; it must lie between 1 and 1000"),
        (StreamConfig, {"max_bad": -1}, r"--max-bad is -1; "),
        (StreamConfig, {"pack_gap_seconds": (0.5, 0.1)}, r"--pack-gap-seconds \(0.5, 0.1\): need 0 <= shortest"),
        (BenchConfig, {"prefetch": 0}, r"--prefetch is 0; it must lie between 1 and 1000"),
        (BenchConfig, {"max_workers": -2}, r"--max-workers is -2; it must lie between -1 and 1024"),
        (BenchConfig, {"step_ms": -1.0}, r"--step-ms is -1; "),
        (TrainConfig, {"workers": -1}, r"--workers is -1; it must lie between 0 and 1024"),
        (TrainConfig, {"epochs": 0}, r"--epochs is 0; it must lie between 1 and "),
        (TrainConfig, {"max_steps": -1}, r"--max-steps is -1; it must lie between 0 and "),
        (TrainConfig, {"lr": 0.0}, r"--lr is 0; it must be above 0, and finite"),
        (TrainConfig, {"lr": math.inf}, r"--lr is inf; it must be above 0, and finite"),
        (TrainConfig, {"patience": -1}, r"--patience is -1; "),
        (TrainConfig, {"eval_batch": 0}, r"--eval-batch is 0; it must lie between 1 and "),
        (TrainConfig, {"max_new_tokens": 448}, r"--max-new-tokens is 448; it must lie between 1 and 447"),
        (TrainConfig, {"micro_batch": 0}, r"--micro-batch is 0; it must lie between 1 and"),
        (TrainConfig, {"dropout": 0.95}, r"--dropout is 0.95; it must lie between 0 and 0.9"),
        (TrainConfig, {"save_minutes": -1.0}, r"--save-minutes is -1; it must lie between 0 and "),
        (TrainConfig, {"margin_seconds": (2.0, 1.0)}, r"--margin-seconds \(2.0, 1.0\): need 0 <= shortest <= longest"),
        (TrainConfig, {"min_window_seconds": 0.0}, r"--min-window-seconds is 0; it must lie between 0.1 and 30"),
        (TrainConfig, {"max_grad_norm": -1.0}, r"--max-grad-norm is -1; "),
        (TrainConfig, {"weight_decay": -0.1}, r"--weight-decay is -0.1; it must lie between 0 and 1"),
        (TrainConfig, {"max_nonfinite": 0}, r"--max-nonfinite is 0; it must lie between 1 and "),
        (ScoreConfig, {"eval_batch": 0}, r"--eval-batch is 0; it must lie between 1 and "),
        (ScoreConfig, {"max_new_tokens": 0}, r"--max-new-tokens is 0; it must lie between 1 and 447"),
        (ScoreConfig, {"limit": -1}, r"--limit is -1; it must lie between 0 and "),
        (ScoreConfig, {"threads": -1}, r"--threads is -1; it must lie between 0 and 4096"),
    ],
)
def test_impossible_values_are_refused(kind, changes, message):
    with pytest.raises(ConfigError, match=message):
        kind(**changes)
