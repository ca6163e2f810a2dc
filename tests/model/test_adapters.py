import shutil
import sys

import pytest
import torch

from tests.making import make_waveform
from whisper_shard.config.settings import replace_settings
from whisper_shard.config.train import TrainConfig
from whisper_shard.errors import ConfigError
from whisper_shard.model.adapters import (
    add_lora,
    compile_layers,
    fold_updates,
    freeze_encoder,
    freeze_layers,
    plain_state_dict,
)
from whisper_shard.model.averaging import average_states
from whisper_shard.model.forward import SpeechLoss
from whisper_shard.model.labels import Labeler
from whisper_shard.model.save import save_model_folder
from whisper_shard.model.weights import load_weights
from whisper_shard.model.whisper import load_whisper
from whisper_shard.train.build import build_network


def loss_of(loaded, seconds=2.0):
    waveform = torch.from_numpy(make_waveform(seconds))[None]
    labels = Labeler(loaded.tokenizer).label_batch(["one two"])
    num_samples = torch.tensor([waveform.shape[1]])
    return SpeechLoss(loaded.model)(waveform, labels.decoder_input_ids, labels.labels, num_samples)[0]


def learning(loaded):
    loss_of(loaded).backward()
    return {name for name, p in loaded.model.named_parameters() if p.grad is not None and bool((p.grad != 0).any())}


def test_frozen_encoder_gets_no_gradient(tiny):
    freeze_encoder(tiny.model)
    assert learning(tiny)
    assert not any("encoder.layers" in name or "conv" in name for name in learning(tiny))


def test_first_layers_can_be_frozen(tiny):
    freeze_layers(tiny.model, 1)
    names = learning(tiny)
    assert not any("conv" in name or "encoder.layers.0" in name for name in names)
    assert any("encoder.layers.1" in name for name in names)
    with pytest.raises(ConfigError, match="--freeze-layers 9: the encoder has 2 layers"):
        freeze_layers(tiny.model, 9)


def test_lora_trains_updates_only_and_is_merged_on_export(tiny, tmp_path):
    torch.manual_seed(0)
    before = loss_of(tiny).item()
    names = set(tiny.model.state_dict())
    add_lora(tiny.model, 4)
    assert loss_of(tiny).item() == pytest.approx(before, rel=1e-6)
    assert all(".lora_" in name for name in learning(tiny))
    for name, parameter in tiny.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    tuned = loss_of(tiny).item()
    assert tuned != pytest.approx(before, rel=1e-3)
    assert set(plain_state_dict(tiny.model)) == names
    save_model_folder(tiny, tmp_path / "merged")
    assert loss_of(load_whisper(str(tmp_path / "merged"))).item() == pytest.approx(tuned, rel=1e-5)


def test_average_of_lora_states_is_that_of_their_weights(tiny):
    torch.manual_seed(0)
    add_lora(tiny.model, 2)
    folded, merged = [], []
    for _ in range(2):
        for name, parameter in tiny.model.named_parameters():
            if ".lora_" in name:
                torch.nn.init.normal_(parameter, std=0.2)
        folded.append({name: tensor.clone() for name, tensor in fold_updates(tiny.model).items()})
        merged.append({name: tensor.clone() for name, tensor in plain_state_dict(tiny.model).items()})
    load_weights(tiny.model, average_states(folded))
    name = "model.encoder.layers.0.fc1.weight"
    mean = (merged[0][name] + merged[1][name]) / 2
    assert not torch.allclose(merged[0][name], mean, atol=1e-2)
    torch.testing.assert_close(plain_state_dict(tiny.model)[name], mean)


def test_lora_without_peft_says_how_to_get_it(tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match=r"--lora-rank needs peft: pip install 'whisper-shard\[lora\]'"):
        add_lora(tiny.model, 4)


def test_lora_of_rank_0_is_refused(tiny):
    with pytest.raises(ConfigError, match="--lora-rank is 0; it must be at least 1"):
        add_lora(tiny.model, 0)


@pytest.mark.long
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_layers_give_the_same_loss_for_any_window(tiny):
    expected = [loss_of(tiny, seconds).item() for seconds in (2.0, 3.0)]
    names = set(tiny.model.state_dict())
    compile_layers(tiny.model)
    assert [loss_of(tiny, seconds).item() for seconds in (2.0, 3.0)] == pytest.approx(expected, rel=1e-5)
    assert set(tiny.model.state_dict()) == names


def test_first_updates_follow_from_the_seed_alone(tiny_folder):
    pytest.importorskip("peft")
    states = []
    for before, seed in ((1, 42), (2, 42), (1, 43)):
        torch.manual_seed(before)
        network = build_network(
            load_whisper(str(tiny_folder)),
            replace_settings(TrainConfig(), {"lora_rank": 2, "seed": seed}),
            torch.device("cpu"),
        )
        states.append(next(p.detach() for name, p in network.named_parameters() if "lora_A" in name))
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])
