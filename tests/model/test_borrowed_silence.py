import json

import pytest
import torch
from torch.nn import functional

from tests.model.making import make_batch, make_waveforms
from whisper_shard.model.adapters import add_lora, checkpoint_layers
from whisper_shard.model.borrowed_silence import attention_bias, enable_shared_attention
from whisper_shard.model.forward import SpeechLoss, decode_teacher_forced, encode, trailing_silence
from whisper_shard.model.log_mel import LogMel
from whisper_shard.model.save import save_model_folder

FULL = 480_000


def to_full(waveforms):
    return functional.pad(waveforms, (0, FULL - waveforms.shape[1]))


def silence_of(model, waveform, *, stride):
    frames = waveform.shape[1] // 160
    return trailing_silence(model, LogMel()(to_full(waveform)), num_frames=frames, stride=stride)


@torch.no_grad()
def test_with_its_own_silence_an_utterance_has_the_states_of_30_seconds(tiny):
    enable_shared_attention(tiny.model.eval())
    waveforms, _, labels = make_batch(tiny, texts=("one two",), seconds=(2.0,), window_seconds=2.5)
    whole = encode(tiny.model, LogMel()(to_full(waveforms)))
    expected = decode_teacher_forced(tiny.model, whole, labels.decoder_input_ids)
    silence = silence_of(tiny.model, waveforms, stride=1)
    log_mel = LogMel()(to_full(waveforms))[..., :250]
    hidden = encode(tiny.model, log_mel, silence=silence)
    found = decode_teacher_forced(tiny.model, hidden, labels.decoder_input_ids, silence)
    torch.testing.assert_close(hidden, whole[:, :125], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    alone = encode(tiny.model, log_mel)
    assert (alone - whole[:, :125]).norm() > 100 * (hidden - whole[:, :125]).norm()


@torch.no_grad()
def test_one_position_of_four_has_the_weight_of_all_four(tiny):
    enable_shared_attention(tiny.model.eval())
    waveforms, _ = make_waveforms([2.0], 2.0)
    log_mel = LogMel()(waveforms)
    every, fourth, alone = (
        encode(tiny.model, log_mel, silence=silence)
        for silence in (*(silence_of(tiny.model, waveforms, stride=s) for s in (1, 4)), None)
    )
    assert (fourth - every).norm() < 0.05 * (alone - every).norm()


@pytest.mark.pretrained
@torch.no_grad()
def test_silence_of_another_utterance_brings_the_real_encoder_near_its_30_second_states(whisper_base):
    enable_shared_attention(whisper_base.model.eval())
    waveforms, _ = make_waveforms([4.0], 4.5)
    whole = encode(whisper_base.model, LogMel()(to_full(waveforms)))[:, :225]
    silence = silence_of(whisper_base.model, make_waveforms([1.5], 1.5)[0], stride=4)
    log_mel = LogMel()(waveforms)
    away = [
        float((encode(whisper_base.model, log_mel, silence=s) - whole).norm() / whole.norm()) for s in (silence, None)
    ]
    assert away[0] < 0.6 * away[1]


def test_only_silent_positions_after_the_window_are_shared(tiny):
    waveforms, _ = make_waveforms([2.0], 2.0)
    silence = silence_of(tiny.model, waveforms, stride=4)
    assert silence.first_position == 100
    assert silence.from_position(0, 50).shape[1] == silence.from_position(0, 100).shape[1] == 350
    assert silence.from_position(0, 101).shape[1] == 349
    assert silence.from_position(0, 1500).shape[1] == 0
    assert silence.share(silence.from_position(0, 1500)) == {}


def test_gradients_reach_what_makes_keys_and_values_of_silence(tiny):
    enable_shared_attention(tiny.model)
    waveforms, num_samples, labels = make_batch(tiny)
    network = SpeechLoss(tiny.model).train()
    silence = network.encode_silence(waveforms[:1, :16_000])
    assert tiny.model.training
    assert not any(states.requires_grad for states in silence.states)
    arguments = (waveforms, labels.decoder_input_ids, labels.labels, num_samples)
    gradients = []
    for shared in (silence, None):
        tiny.model.zero_grad()
        network(*arguments, silence=shared)[0].backward()
        layers = (tiny.model.model.encoder.layers[0].self_attn, tiny.model.model.decoder.layers[0].encoder_attn)
        gradients.append([layer.v_proj.weight.grad.clone() for layer in layers])
    for with_silence, without in zip(*gradients, strict=True):
        assert torch.isfinite(with_silence).all()
        assert not torch.allclose(with_silence, without)


@pytest.mark.parametrize("change", [checkpoint_layers, lambda model: add_lora(model, 2)])
def test_silence_is_shared_with_checkpointing_and_low_rank_updates(tiny, change):
    enable_shared_attention(tiny.model)
    waveforms, num_samples, labels = make_batch(tiny)
    network = SpeechLoss(tiny.model).train()
    arguments = (waveforms, labels.decoder_input_ids, labels.labels, num_samples)
    before = network(*arguments, silence=network.encode_silence(waveforms[:1]))[0]
    change(tiny.model)
    after = network(*arguments, silence=network.encode_silence(waveforms[:1]))[0]
    torch.testing.assert_close(after, before)
    after.backward()


def test_a_model_with_shared_attention_is_saved_as_any_other(tiny, tmp_path):
    enable_shared_attention(tiny.model)
    save_model_folder(tiny, tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert "shared" not in json.dumps(config)


@pytest.mark.parametrize(("num_own", "num_shared"), [(50, 350), (61, 341), (8, 1)])
def test_rows_of_the_bias_are_aligned_for_gpus(num_own, num_shared):
    bias = attention_bias(torch.zeros(1, dtype=torch.bfloat16), num_own, num_shared, 4)
    assert bias.shape == (1, 1, 1, num_own + num_shared)
    assert bias.dtype == torch.bfloat16
    assert all(stride % 8 == 0 for stride in bias.stride()[:-1])
    assert bias.stride(-1) == 1
    assert not bias[..., :num_own].any()
    assert (bias[..., num_own:] == torch.tensor(4.0).log().bfloat16()).all()
