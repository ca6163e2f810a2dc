import numpy as np

from whisper_shard.demo.tiny_whisper import make_tiny_whisper


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
