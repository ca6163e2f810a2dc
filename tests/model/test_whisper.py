import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig

from whisper_shard.errors import ModelError
from whisper_shard.model.save import save_model_folder
from whisper_shard.model.whisper import load_whisper


def test_parameters_are_float32_even_if_the_file_is_not(tiny, tmp_path):
    tiny.model.half()
    tiny.model.save_pretrained(tmp_path)
    tiny.processor.save_pretrained(tmp_path)
    assert {p.dtype for p in load_whisper(str(tmp_path)).model.parameters()} == {torch.float32}


def test_missing_folder(tmp_path):
    with pytest.raises(ModelError, match=r"no such model folder; give a folder with config\.json or a name on the"):
        load_whisper(str(tmp_path / "nothing"))
    with pytest.raises(ModelError, match="nothing/: no such model folder"):
        load_whisper("nothing/")


def test_folder_without_config(tmp_path):
    with pytest.raises(ModelError, match=r"not a model folder, config\.json is missing"):
        load_whisper(str(tmp_path))


@pytest.mark.parametrize(
    ("missing", "what"),
    [
        (("tokenizer.json", "vocab.json"), "tokenizer"),
        (("processor_config.json", "preprocessor_config.json"), "processor"),
    ],
)
def test_folder_without_processor_or_tokenizer(tiny, tmp_path, missing, what):
    save_model_folder(tiny, tmp_path / "model")
    for name in missing:
        (tmp_path / "model" / name).unlink()
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


@pytest.mark.slow
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


@pytest.mark.slow
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
