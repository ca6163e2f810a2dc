import pytest
import torch

from tests.making import make_waveform
from whisper_shard.inference.encoder import InferenceEncoder
from whisper_shard.model.adapters import add_lora
from whisper_shard.model.borrowed_silence import enable_shared_attention
from whisper_shard.model.device import autocast
from whisper_shard.model.forward import encode, encode_silence
from whisper_shard.model.log_mel import LogMel


def make_log_mel(num_rows, window_seconds):
    waveforms = torch.zeros(num_rows, round(window_seconds * 16000))
    for row in range(num_rows):
        waveform = torch.from_numpy(make_waveform(1.0, seed=row))
        waveforms[row, : len(waveform)] = waveform
    return LogMel()(waveforms)


@pytest.mark.parametrize(("rows", "seconds"), [(3, 30.0), (5, 12.5), (1, 2.0)])
@torch.no_grad()
def test_states_are_those_of_training_to_the_bit(tiny, rows, seconds):
    log_mel = make_log_mel(rows, seconds)
    assert torch.equal(InferenceEncoder(tiny.model).encode(log_mel), encode(tiny.model.eval(), log_mel))


@torch.no_grad()
def test_silence_is_shared_as_in_training(tiny):
    enable_shared_attention(tiny.model.eval())
    log_mel = make_log_mel(3, 2.5)
    silence = encode_silence(tiny.model, LogMel(), torch.from_numpy(make_waveform(0.5))[None])
    encoder = InferenceEncoder(tiny.model)
    torch.testing.assert_close(
        encoder.encode(log_mel, silence), encode(tiny.model, log_mel, silence=silence), atol=1e-5, rtol=1e-5
    )
    expected = tiny.model.model.encoder.layer_norm(silence.from_position(-1, 125))
    torch.testing.assert_close(encoder.silence_states(silence, 125), expected)


@pytest.mark.pretrained
@torch.no_grad()
def test_real_states_at_30_seconds_are_hugging_faces_to_the_bit(whisper_base):
    log_mel = make_log_mel(2, 30.0)
    expected = whisper_base.model.eval().model.encoder(log_mel).last_hidden_state
    assert torch.equal(InferenceEncoder(whisper_base.model).encode(log_mel), expected)


@torch.no_grad()
def test_bfloat16_is_as_near_as_autocast(tiny):
    log_mel = make_log_mel(2, 4.0)
    exact = encode(tiny.model.eval(), log_mel)
    with autocast(torch.device("cpu"), torch.bfloat16):
        usual = encode(tiny.model, log_mel)
    ours = InferenceEncoder(tiny.model, torch.bfloat16).encode(log_mel)
    assert ours.dtype == torch.float32
    assert 0 < (ours - exact).abs().mean() <= 1.2 * (usual - exact).abs().mean()


@torch.no_grad()
def test_low_rank_updates_act(tiny):
    log_mel = make_log_mel(2, 3.0)
    before = InferenceEncoder(tiny.model).encode(log_mel)
    torch.manual_seed(0)
    add_lora(tiny.model, 4)
    for name, parameter in tiny.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    after = InferenceEncoder(tiny.model).encode(log_mel)
    assert (after - before).abs().max() > 1e-2
    torch.testing.assert_close(after, encode(tiny.model.eval(), log_mel), atol=1e-5, rtol=1e-5)
