"""Settings have flat names and a docstring each, whatever group they are in."""

import ast
import dataclasses
import inspect
import sys

import pytest

from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.config.score import ScoreConfig
from whisper_shard.config.settings import flatten_settings, list_settings, replace_settings
from whisper_shard.config.stream import StreamConfig
from whisper_shard.config.tools import BenchConfig, DemoConfig, DoctorConfig, InspectConfig, VerifyConfig
from whisper_shard.config.train import TrainConfig
from whisper_shard.errors import ConfigError

KINDS = (
    PrepareConfig, StreamConfig, TrainConfig, ScoreConfig, BenchConfig, VerifyConfig, InspectConfig, DemoConfig,
    DoctorConfig,
)  # fmt: skip


def with_groups(kind):
    yield kind
    for field in dataclasses.fields(kind):
        if dataclasses.is_dataclass(field.type):
            yield from with_groups(field.type)


@pytest.mark.parametrize("kind", dict.fromkeys(group for kind in KINDS for group in with_groups(kind)))
def test_every_setting_has_a_docstring_of_one_line(kind):
    """Docstrings are the text of --help, where a line break would stay; those of groups head its sections."""
    tree = ast.parse(inspect.getsource(sys.modules[kind.__module__]))
    (node,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == kind.__name__)
    documented = {
        before.target.id: after.value.value
        for before, after in zip(node.body, node.body[1:], strict=False)
        if isinstance(before, ast.AnnAssign) and isinstance(after, ast.Expr)
    }
    for field in dataclasses.fields(kind):
        is_group = dataclasses.is_dataclass(field.type)
        text = field.type.__doc__ if is_group else documented.get(field.name)
        assert text, f"{kind.__name__}.{field.name} has no docstring"
        assert "\n" not in text, f"the docstring of {kind.__name__}.{field.name} has several lines"


@pytest.mark.parametrize("kind", KINDS)
def test_no_two_groups_have_a_setting_of_the_same_name(kind):
    fields = [field for group in with_groups(kind) for field in dataclasses.fields(group)]
    names = [field.name for field in fields if not dataclasses.is_dataclass(field.type)]
    assert sorted(names) == sorted(list_settings(kind))


def test_settings_are_found_and_changed_by_their_flat_names():
    config = replace_settings(TrainConfig(), {"lr": 0.1, "seed": 7, "window": "full", "eval": "here"})
    assert (config.optimizer.lr, config.stream.seed, config.window.window, config.eval) == (0.1, 7, "full", "here")
    assert flatten_settings(config) == {
        **flatten_settings(TrainConfig()), "lr": 0.1, "seed": 7, "window": "full", "eval": "here",
    }  # fmt: skip
    assert replace_settings(config, {}) == config


def test_a_setting_that_does_not_exist_is_refused():
    with pytest.raises(ConfigError, match=r"there is no setting 'learning_rate'; here it is lr$"):
        replace_settings(TrainConfig(), {"learning_rate": 0.1})
    with pytest.raises(ConfigError, match=r"there is no setting 'warmpu'; did you mean 'warmup'\?"):
        replace_settings(TrainConfig(), {"warmpu": 0.1})
