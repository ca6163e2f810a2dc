"""Stand-ins for silence in its study: learned constants begin as silence and learn, a background is as loud as said."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.bench_silence import plan_run
from benchmarks.silence_corpora import make_music, make_noise
from benchmarks.silence_runs import make_run
from benchmarks.silence_stand_ins import FASTER, LOUDER_DB, LearnedSilence, learn_faster, lend_background
from whisper_shard.model.borrowed_silence import STRIDE, enable_shared_attention
from whisper_shard.model.forward import SpeechLoss, encode
from whisper_shard.model.whisper import load_whisper

SOURCE = torch.from_numpy(0.1 * np.sin(np.arange(4000) / 5.0).astype(np.float32))[None]


@pytest.fixture
def network(task):
    model = load_whisper(str(task / "tiny")).model
    enable_shared_attention(model)
    return SpeechLoss(model)


def test_constants_begin_as_the_mean_of_silence_with_the_weight_of_all_of_it(network):
    silence = network.encode_silence(SOURCE)
    learned = LearnedSilence(network.model, silence)
    layer = network.model.model.encoder.layers[0]
    position = silence.first_position + 10 * STRIDE
    rest = silence.from_position(0, position)
    assert torch.equal(learned.from_position(0, position), rest)
    shared = learned.share(rest)["shared"].project(layer.self_attn)
    all_of_it = silence.share(silence.states[0], layer.self_attn_layer_norm)["shared"].project(layer.self_attn)
    torch.testing.assert_close(shared.keys, all_of_it.keys.mean(2, keepdim=True))
    torch.testing.assert_close(shared.values, all_of_it.values.mean(2, keepdim=True))
    assert shared.stride == STRIDE * rest.shape[1] > 1
    assert learned.share(rest[:, :0]) == {}


def test_constants_learn_faster_than_the_weights_by_a_fixed_factor(network):
    learned = LearnedSilence(network.model, network.encode_silence(SOURCE))
    network.model.add_module("learned_silence", learned)
    optimizer = torch.optim.AdamW([{"params": list(network.parameters())}], lr=0.0)
    learn_faster(optimizer, learned)
    before, key = network.model.model.encoder.conv1.weight.detach().clone(), learned.keys[0].detach().clone()
    log_mel = network.log_mel(torch.randn(1, 16_000))
    encode(network.model, log_mel, silence=learned).square().sum().backward()
    for group in optimizer.param_groups:
        group["lr"] = 1e-5
    optimizer.step()
    # The first update of Adam moves each value that has a gradient by the learning rate, in float32.
    weight = network.model.model.encoder.conv1.weight.detach()
    assert (weight - before).abs().max() == pytest.approx(1e-5, rel=0.05)
    assert (learned.keys[0].detach() - key).abs().max() == pytest.approx(FASTER * 1e-5, rel=0.05)


@pytest.mark.parametrize("make", [make_noise, make_music])
def test_a_background_follows_the_source_as_loud_as_it_says_and_only_for_the_time(network, make, monkeypatch):
    heard = []
    log_mel = network.log_mel.forward
    monkeypatch.setattr(network.log_mel, "forward", lambda window: heard.append(window) or log_mel(window))
    silence = network.encode_silence(SOURCE)
    with lend_background(make):
        loud = network.encode_silence(SOURCE)
    again = network.encode_silence(SOURCE)
    quiet_window, loud_window, _ = heard
    size = SOURCE.shape[1]
    assert torch.equal(loud_window[:, :size], SOURCE) and not quiet_window[:, size:].any()
    power = loud_window[:, size:].square().mean() / SOURCE.square().mean()
    assert 10 * math.log10(power) == pytest.approx(LOUDER_DB, abs=0.1)
    assert [state.shape for state in loud.states] == [state.shape for state in silence.states]
    assert not torch.allclose(loud.states[-1], silence.states[-1], atol=0.1)
    assert torch.equal(again.states[-1], silence.states[-1])


@pytest.mark.slow
@pytest.mark.parametrize("lends", ["constants", "noise"])
def test_a_run_with_a_stand_in_differs_from_one_with_silence(task, tmp_path, lends):
    losses = []
    for name in ("silence", lends):
        run, _ = plan_run("digits:auto:1", tmp_path, threads=1)
        flat = {"max_steps": 2, "batch_size": 4, "eval_every": 2, "lr": 1e-3, "precision": "fp32", "watch_every": 1}
        made = replace(run, data=task, folder=tmp_path / name, settings={**run.settings, **flat}, lends=name, tested=2)
        make_run(made, str(task / "tiny"))
        losses.append((made.folder / "marks.jsonl").read_text().splitlines()[-1])
    assert losses[0] != losses[1]
