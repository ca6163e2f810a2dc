import pytest
import torch
from torch.nn import functional

from tests.model.making import make_batch, make_waveforms
from whisper_shard.errors import ConfigError
from whisper_shard.model.forward import SpeechLoss, decode_teacher_forced, encode
from whisper_shard.model.log_mel import LogMel
from whisper_shard.model.whisper import load_whisper


@torch.no_grad()
def test_encoder_at_30_seconds_is_hugging_faces_to_the_bit(tiny):
    log_mel = LogMel()(make_waveforms([3.0, 30.0], 30.0)[0])
    tiny.model.eval()
    assert torch.equal(encode(tiny.model, log_mel), tiny.model.model.encoder(log_mel).last_hidden_state)


@pytest.mark.slow
@pytest.mark.pretrained
@torch.no_grad()
def test_real_encoder_at_30_seconds_is_hugging_faces_to_the_bit(whisper_base):
    log_mel = LogMel()(make_waveforms([3.0], 30.0)[0])
    expected = whisper_base.model.model.encoder(log_mel).last_hidden_state
    assert torch.equal(encode(whisper_base.model.eval(), log_mel), expected)


@torch.no_grad()
def test_short_windows_give_short_states(tiny):
    states = encode(tiny.model.eval(), LogMel()(make_waveforms([1.0], 2.5)[0]))
    assert states.shape == (1, 125, 32)


def test_windows_the_encoder_cannot_take_are_named(tiny):
    with pytest.raises(ConfigError, match="window of 3002 frames: the encoder needs an even number of 2 to 3000"):
        encode(tiny.model, torch.zeros(1, 80, 3002))
    with pytest.raises(ConfigError, match="window of 101 frames"):
        encode(tiny.model, torch.zeros(1, 80, 101))


@torch.no_grad()
def test_decoder_states_are_hugging_faces(tiny):
    waveforms, _, labels = make_batch(tiny)
    hidden = encode(tiny.model.eval(), LogMel()(waveforms))
    ours = tiny.model.proj_out(decode_teacher_forced(tiny.model, hidden, labels.decoder_input_ids))
    theirs = tiny.model(encoder_outputs=(hidden,), decoder_input_ids=labels.decoder_input_ids, use_cache=False).logits
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_speech_loss_is_the_sum_over_tokens(tiny):
    waveforms, num_samples, labels = make_batch(tiny)
    tiny.model.eval()
    loss, num_tokens = SpeechLoss(tiny.model)(waveforms, labels.decoder_input_ids, labels.labels, num_samples)
    hidden = encode(tiny.model, LogMel()(waveforms))
    logits = tiny.model(encoder_outputs=(hidden,), decoder_input_ids=labels.decoder_input_ids, use_cache=False).logits
    expected = functional.cross_entropy(logits.flatten(0, 1), labels.labels.flatten(), reduction="sum")
    torch.testing.assert_close(loss, expected)
    assert num_tokens == (labels.labels != -100).sum()


def test_gradient_checkpointing_changes_no_gradient(tiny_folder):
    from whisper_shard.model.adapters import checkpoint_layers

    grads = []
    for recompute in (False, True):
        loaded = load_whisper(str(tiny_folder))
        loaded.model.train()
        if recompute:
            checkpoint_layers(loaded.model)
            layers = (*loaded.model.model.encoder.layers, *loaded.model.model.decoder.layers)
            assert all(layer.gradient_checkpointing for layer in layers)
        waveforms, num_samples, labels = make_batch(loaded)
        SpeechLoss(loaded.model)(waveforms, labels.decoder_input_ids, labels.labels, num_samples)[0].backward()
        grads.append({name: p.grad for name, p in loaded.model.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys()
    for name, grad in grads[0].items():
        torch.testing.assert_close(grad, grads[1][name], msg=name)


def test_dropout_acts_in_training_only(tiny_folder):
    loaded = load_whisper(str(tiny_folder), dropout=0.3)
    waveforms, num_samples, labels = make_batch(loaded)
    loss = SpeechLoss(loaded.model)
    inputs = (waveforms, labels.decoder_input_ids, labels.labels, num_samples)
    assert loss.train()(*inputs)[0] != loss(*inputs)[0]
    assert loss.eval()(*inputs)[0] == loss(*inputs)[0]


def test_stochastic_depth_acts_in_training_only(tiny_folder):
    loaded = load_whisper(str(tiny_folder))
    waveforms, _, _ = make_batch(loaded)
    log_mel = LogMel()(waveforms)
    torch.manual_seed(0)
    loaded.model.train()
    deep = {float(encode(loaded.model, log_mel, stochastic_depth=0.5).detach().abs().sum()) for _ in range(12)}
    assert len(deep) > 1
    loaded.model.eval()
    assert torch.equal(encode(loaded.model, log_mel, stochastic_depth=0.5), encode(loaded.model, log_mel))


def test_spec_augment_in_the_loss_needs_seeds(tiny):
    waveforms, num_samples, labels = make_batch(tiny)
    loss = SpeechLoss(tiny.model, spec_augment={"time_masks": 4, "time_share": 0.5})
    inputs = (waveforms, labels.decoder_input_ids, labels.labels, num_samples)
    with pytest.raises(ConfigError, match="SpecAugment needs one seed for each row"):
        loss.train()(*inputs)
    masked = loss(*inputs, seeds=[1, 2])[0]
    assert torch.equal(masked, loss(*inputs, seeds=[1, 2])[0])
    assert masked != loss(*inputs, seeds=[3, 4])[0]
    assert loss.eval()(*inputs)[0] != masked
