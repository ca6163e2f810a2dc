"""Moments of 8 bits: near those of 32, unchanged by a step that is not finite, and back to the bit after a restart."""

import math
import signal
import sys

import pytest
import torch
from torch import nn

from tests.making import make_dataset
from tests.train.running import Kill, assert_same_result, final_weights, launch, tiny_config
from tests.train.test_step import make_train_step, one_batch
from whisper_shard.config.settings import replace_settings
from whisper_shard.config.train import OptimizerConfig
from whisper_shard.errors import ConfigError, StateError
from whisper_shard.train.build import build_optimizer
from whisper_shard.train.global_batch import Requests
from whisper_shard.train.loop import train_model
from whisper_shard.train.run.snapshot import capture_optimizer, restore_optimizer

EIGHT_BITS = OptimizerConfig(optimizer="adamw-8bit", weight_decay=0.1)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("eight") / "train", [0.5, 1.0, 1.5, 2.0] * 4, per_shard=16)


def make_model(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, 128), nn.LayerNorm(128), nn.Linear(128, 61))


def train(model, optimizer, steps):
    torch.manual_seed(7)
    for _ in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 1e-3
        model(torch.randn(32, 64)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def states_of(optimizer, model):
    return {name: tensor.clone() for name, tensor in capture_optimizer(optimizer, model).items()}


def test_large_tensors_have_8_bits_and_small_ones_32():
    model = make_model()
    optimizer = build_optimizer(model, EIGHT_BITS)
    train(model, optimizer, 1)
    kinds = {name: tensor.dtype for name, tensor in states_of(optimizer, model).items() if "/" in name}
    assert kinds["state1/0.weight"] == kinds["state2/2.weight"] == torch.uint8
    assert kinds["state1/0.bias"] == kinds["state2/1.weight"] == torch.float32
    assert len(optimizer.state[model[2].weight]["absmax1"]) == math.ceil(61 * 128 / 256)


def test_weights_stay_near_those_of_32_bits():
    trained = {}
    for name in ("adamw", "adamw-8bit"):
        model = make_model()
        train(model, build_optimizer(model, OptimizerConfig(optimizer=name, weight_decay=0.1)), 50)
        trained[name] = nn.utils.parameters_to_vector(model.parameters()).detach()
    before = nn.utils.parameters_to_vector(make_model().parameters()).detach()
    moved, apart = (trained["adamw"] - before).norm(), (trained["adamw"] - trained["adamw-8bit"]).norm()
    assert 0 < apart < 0.1 * moved


def test_restored_moments_go_on_to_the_bit():
    model, other = make_model(), make_model(seed=1)
    optimizer, other_optimizer = build_optimizer(model, EIGHT_BITS), build_optimizer(other, EIGHT_BITS)
    train(model, optimizer, 3)
    other.load_state_dict(model.state_dict())
    restore_optimizer(other_optimizer, other, states_of(optimizer, model))
    for pair in ((model, optimizer), (other, other_optimizer)):
        train(*pair, 3)
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_nothing_changes_when_the_loss_is_not_finite(tiny, dataset):
    train_step = make_train_step(tiny, optimizer="adamw-8bit")
    optimizer, batch = train_step.trainable.optimizer, one_batch(dataset)
    assert not train_step(batch, step=0, lr=1e-3, requests=Requests()).read()[2]
    weights = {name: p.detach().clone() for name, p in tiny.model.named_parameters()}
    states = states_of(optimizer, tiny.model)
    batch.waveforms[5, 100] = math.inf
    assert train_step(batch, step=1, lr=1e-3, requests=Requests()).read()[2]
    for name, parameter in tiny.model.named_parameters():
        assert torch.equal(parameter, weights[name]), name
    after = states_of(optimizer, tiny.model)
    assert after.keys() == states.keys()
    assert all(torch.equal(after[name], state) for name, state in states.items())
    batch.waveforms[5, 100] = 0.0
    # After a skipped step the learning rate is a tensor on the device.
    assert not train_step(batch, step=2, lr=1e-3, lr_after_skip=5e-4, requests=Requests()).read()[2]
    assert not torch.equal(tiny.model.model.encoder.conv2.weight, weights["model.encoder.conv2.weight"])


@pytest.mark.parametrize("settings", [{"lora_rank": 128}, {"freeze_encoder": True, "ema": 0.9}, {"freeze_layers": 1}])
def test_only_what_is_trained_has_moments(tiny, dataset, settings):
    train_step = make_train_step(tiny, optimizer="adamw-8bit", **settings)
    before = {name: p.detach().clone() for name, p in tiny.model.named_parameters()}
    for step in range(2):
        assert not train_step(one_batch(dataset), step=step, lr=1e-3, requests=Requests()).read()[2]
    trained = {name for name, p in tiny.model.named_parameters() if p.requires_grad}
    moved = {name for name, p in tiny.model.named_parameters() if not torch.equal(p, before[name])}
    states = states_of(train_step.trainable.optimizer, tiny.model)
    assert moved <= {key.partition("/")[2] for key in states} <= trained
    assert moved
    assert any(state.dtype == torch.uint8 for state in states.values())


@pytest.mark.slow
def test_a_killed_run_ends_with_the_bits_of_one_that_was_left_alone(task, tmp_path):
    config = tiny_config(task, optimizer="adamw-8bit")
    assert launch(task, tmp_path / "alone", config)[0].exit_code == 0
    killed = launch(task, tmp_path / "run", config, kill=Kill(step=3))[0]
    assert killed.exit_code == -signal.SIGKILL
    assert launch(task, tmp_path / "run", config)[0].exit_code == 0
    assert_same_result(tmp_path / "run", tmp_path / "alone")
    assert final_weights(tmp_path / "run")


def test_a_run_goes_on_with_its_own_optimizer_only(task, tmp_path):
    config = tiny_config(task, max_steps=1)
    train_model(task, tmp_path / "run", config)
    with pytest.raises(StateError, match="began with optimizer = 'adamw', now it is 'adamw-8bit'"):
        train_model(task, tmp_path / "run", replace_settings(config, {"optimizer": "adamw-8bit"}))


def test_without_bitsandbytes_it_says_how_to_get_it(monkeypatch):
    monkeypatch.delitem(sys.modules, "whisper_shard.train.adamw_8bit", raising=False)
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ConfigError, match=r"adamw-8bit needs bitsandbytes: pip install 'whisper-shard\[8bit\]'"):
        build_optimizer(make_model(), EIGHT_BITS)
