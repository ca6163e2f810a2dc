import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import AutoConfig, pipeline

from tests.making import make_waveform
from whisper_shard.demo.tiny_whisper import make_tiny_whisper
from whisper_shard.errors import ConfigError, EnvironmentFault, ModelError
from whisper_shard.model.forward import SpeechLoss, decode_teacher_forced, encode
from whisper_shard.model.labels import Labeler
from whisper_shard.model.log_mel import LogMel
from whisper_shard.model.save import save_model_folder
from whisper_shard.model.whisper import load_whisper


def make_waveforms(seconds, window_seconds):
    waveforms = torch.zeros(len(seconds), round(window_seconds * 16000))
    for i, length in enumerate(seconds):
        waveform = torch.from_numpy(make_waveform(length, seed=i))
        waveforms[i, : len(waveform)] = waveform
    return waveforms, torch.tensor([round(length * 16000) for length in seconds])


def make_batch(loaded, texts=("one two", "three"), seconds=(2.0, 1.0), window_seconds=3.0):
    waveforms, num_samples = make_waveforms(seconds, window_seconds)
    return waveforms, num_samples, Labeler(loaded.tokenizer).label_batch(list(texts))


@torch.no_grad()
def test_encoder_at_30_seconds_is_hugging_faces_to_the_bit(tiny):
    log_mel = LogMel()(make_waveforms([3.0, 30.0], 30.0)[0])
    tiny.model.eval()
    assert torch.equal(encode(tiny.model, log_mel), tiny.model.model.encoder(log_mel).last_hidden_state)


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
    from whisper_shard.model.adapters import checkpoint_encoder

    grads = []
    for recompute in (False, True):
        loaded = load_whisper(str(tiny_folder))
        loaded.model.train()
        if recompute:
            checkpoint_encoder(loaded.model)
            assert all(layer.gradient_checkpointing for layer in loaded.model.model.encoder.layers)
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


def test_parameters_are_float32_even_if_the_file_is_not(tiny, tmp_path):
    tiny.model.half()
    tiny.model.save_pretrained(tmp_path)
    tiny.processor.save_pretrained(tmp_path)
    assert {p.dtype for p in load_whisper(str(tmp_path)).model.parameters()} == {torch.float32}


@torch.no_grad()
def test_saved_folder_loads_here_and_in_a_pipeline(tiny, tmp_path):
    waveforms, num_samples, labels = make_batch(tiny)
    tiny.model.model.decoder.layer_norm.weight.mul_(1.5)
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "leftover").touch()
    save_model_folder(tiny, folder, language="de-DE", task="transcribe")
    assert not (folder / "leftover").exists()
    assert sorted(os.listdir(tmp_path)) == ["model"]
    again = load_whisper(str(folder))
    inputs = (waveforms, labels.decoder_input_ids, labels.labels, num_samples)
    assert torch.equal(SpeechLoss(again.model.eval())(*inputs)[0], SpeechLoss(tiny.model.eval())(*inputs)[0])
    settings = again.model.generation_config
    assert (settings.language, settings.task, settings.forced_decoder_ids) == ("de", "transcribe", None)
    recognizer = pipeline("automatic-speech-recognition", model=str(folder), dtype=torch.float32)
    sound = {"raw": make_waveform(1.0), "sampling_rate": 16000}
    assert isinstance(recognizer(sound, generate_kwargs={"max_new_tokens": 4})["text"], str)


def test_a_folder_that_cannot_be_written_is_the_machines_fault(tiny, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises((EnvironmentFault, ModelError), match="file"):
        save_model_folder(tiny, tmp_path / "file" / "model")


def test_missing_folder(tmp_path):
    with pytest.raises(ModelError, match=r"no such model folder; give a folder with config\.json or a name on the"):
        load_whisper(str(tmp_path / "nothing"))
    with pytest.raises(ModelError, match="nothing/: no such model folder"):
        load_whisper("nothing/")


def test_folder_without_config(tmp_path):
    with pytest.raises(ModelError, match=r"not a model folder, config\.json is missing"):
        load_whisper(str(tmp_path))


@pytest.mark.parametrize(("missing", "what"), [("tokenizer.json", "tokenizer"), ("processor_config.json", "processor")])
def test_folder_without_processor_or_tokenizer(tiny, tmp_path, missing, what):
    save_model_folder(tiny, tmp_path / "model")
    (tmp_path / "model" / missing).unlink()
    with pytest.raises(ModelError, match=f"no {what} in it .*save model and processor into one folder"):
        load_whisper(str(tmp_path / "model"))


def test_another_kind_of_model_is_named(tiny, tmp_path):
    save_model_folder(tiny, tmp_path / "model")
    AutoConfig.for_model("wav2vec2").save_pretrained(tmp_path / "model")
    with pytest.raises(ModelError, match="a wav2vec2 model; whisper-shard trains Whisper only"):
        load_whisper(str(tmp_path / "model"))


def test_damaged_weights_are_named(tiny, tmp_path):
    save_model_folder(tiny, tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(ModelError, match="model: cannot be loaded:"):
        load_whisper(str(tmp_path / "model"))


def run_python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True, text=True, timeout=120, cwd=Path(__file__).parents[2],
        env={**os.environ, **environment},
    )  # fmt: skip


def test_a_name_that_the_hub_does_not_give(tmp_path):
    code = """
        from whisper_shard.errors import ModelError
        from whisper_shard.model.whisper import load_whisper
        try:
            load_whisper("openai/whisper-nothing")
        except ModelError as error:
            print(error)
    """
    result = run_python(code, HF_ENDPOINT="https://hub.invalid", HF_HOME=str(tmp_path))
    assert "Retrying" not in result.stderr  # for half a minute, where the hub's own library is left to it
    assert "openai/whisper-nothing: neither a folder here nor loadable from the model hub" in result.stdout
    assert "give a folder" in result.stdout


def test_a_torchaudio_built_for_cuda_is_explained(tmp_path, tiny_folder):
    (tmp_path / "torchaudio").mkdir()
    message = "libc10_cuda.so: cannot open shared object file: No such file or directory"
    (tmp_path / "torchaudio" / "__init__.py").write_text(f"raise OSError({message!r})\n")
    code = f"""
        import sys
        sys.path.insert(0, {str(tmp_path)!r})
        from whisper_shard.errors import EnvironmentFault
        from whisper_shard.model.log_mel import LogMel
        from whisper_shard.model.whisper import load_whisper
        for action in (LogMel, lambda: load_whisper({str(tiny_folder)!r})):
            try:
                action()
            except EnvironmentFault as error:
                print(error)
    """
    lines = run_python(code).stdout.splitlines()
    assert len(lines) == 2
    for line in lines:
        assert "cannot load libc10_cuda beside torch" in line
        assert "`whisper-shard doctor --fix`" in line


def test_tiny_models_are_the_same_for_the_same_seed(tmp_path, tiny_folder):
    texts = ["one two", "three"]
    kwargs = {"texts": texts, "width": 16, "encoder_layers": 1, "decoder_layers": 1, "heads": 2}
    first = make_tiny_whisper(tmp_path / "first", **kwargs)
    second = make_tiny_whisper(tmp_path / "second", **kwargs)
    other = make_tiny_whisper(tmp_path / "other", **kwargs, seed=1)
    for name in ("model.safetensors", "tokenizer.json", "generation_config.json"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
    assert (first / "model.safetensors").read_bytes() != (other / "model.safetensors").read_bytes()


def test_tiny_models_know_what_whisper_knows(tiny, english):
    assert (tiny.n_mels, tiny.is_multilingual, english.is_multilingual) == (80, True, False)
    ids = [tiny.tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in ("en", "translate", "0.00", "30.00")]
    assert np.array_equal(np.diff(ids), [100, 6, 1500])
