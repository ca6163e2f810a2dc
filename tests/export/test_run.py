"""Exports are read by the tools themselves, and transcribe the same there as here."""

import json
from difflib import SequenceMatcher
from pathlib import Path

import pytest

from tests.export.making import write_recordings
from whisper_shard.config.export import ExportConfig
from whisper_shard.errors import AudioError, ConfigError, ExportError, ModelError
from whisper_shard.export import run
from whisper_shard.export.formats import EXPORTS
from whisper_shard.export.run import export_model


def test_a_folder_that_is_not_empty_is_refused(tiny_folder, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ExportError, match="exists and is not an empty folder; choose a new folder"):
        export_model(str(tiny_folder), tmp_path, ExportConfig())
    with pytest.raises(ExportError, match="file: exists and is not an empty folder"):
        export_model(str(tiny_folder), tmp_path / "file", ExportConfig())


@pytest.mark.parametrize("name", EXPORTS)
def test_a_number_format_that_the_format_cannot_hold_is_refused(name, tiny_folder, tmp_path):
    with pytest.raises(ExportError, match=f"--quantize q3_k: format {name} cannot hold it; use one of .*float"):
        export_model(str(tiny_folder), tmp_path / "out", ExportConfig(format=name, quantize="q3_k"))
    assert not (tmp_path / "out").exists()


def test_a_model_without_tokenizer_is_refused(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"model: no tokenizer in it \(tokenizer.json\)"):
        export_model(str(tmp_path / "model"), tmp_path / "out", ExportConfig(format="ct2"))


@pytest.mark.parametrize("name", ["ggml", "openai", "onnx"])
def test_a_vocabulary_that_is_not_whispers_own_is_refused(name, tiny_folder, tmp_path):
    with pytest.raises(
        ExportError, match=r"is not one of Whisper's own, which .* has built in; export it as hf or ct2"
    ):
        export_model(str(tiny_folder), tmp_path / "out", ExportConfig(format=name))
    assert list(tmp_path.iterdir()) == [], "nothing is left of an export that failed"


@pytest.mark.slow
def test_text_tokens_that_openai_whisper_does_not_know_are_refused(large_v3, tmp_path):
    with pytest.raises(ExportError, match="its text tokens are not Whisper's own, which openai-whisper has built in"):
        export_model(str(large_v3), tmp_path / "out", ExportConfig(format="openai"))


def test_a_recording_without_audio_is_refused_before_anything_is_written(tiny_folder, tmp_path):
    (tmp_path / "text.wav").write_text("no sound")
    with pytest.raises(AudioError, match=r"--check .*text\.wav: "):
        export_model(str(tiny_folder), tmp_path / "out", ExportConfig(check=(str(tmp_path / "text.wav"),)))


def test_a_tool_that_is_missing_is_named(large_v3, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pywhispercpp.model", None)
    config = ExportConfig(format="ggml", check=tuple(write_recordings(tmp_path, 1)))
    with pytest.raises(ConfigError, match="--check needs pywhispercpp, which reads format ggml: pip install"):
        export_model(str(large_v3), tmp_path / "out", config)
    assert not (tmp_path / "out").exists()


def test_hf_is_a_copy_with_the_model_card(large_v3, tmp_path):
    report = export_model(str(large_v3), tmp_path / "out", ExportConfig(quantize="float16"))
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"README.md", "config.json", "vocab.json", "preprocessor_config.json", "processor_config.json"} <= names
    assert (tmp_path / "out" / "README.md").read_text() == "# A card\n"
    assert report.num_bytes < sum(path.stat().st_size for path in large_v3.iterdir())


def export_and_compare(model, folder, name, dtype="", **settings):
    config = ExportConfig(
        format=name, quantize=dtype, check=tuple(write_recordings(folder)), tolerance=1.0, threads=1, **settings
    )
    report = export_model(str(model), folder / "out", config)
    kept = json.loads((folder / "out" / "parity.json").read_text())
    assert kept["num_samples"] == 3 and kept["disagreement"] == report.parity.disagreement
    return report.parity


def assert_alike(parity, *, flips=1):
    """Random models flip a token by float noise now and then; texts that were broken would have nothing in common."""
    plain = [row for row in parity.differences if not row.timestamps]
    for row in plain:
        assert SequenceMatcher(None, row.ours, row.theirs).ratio() > 0.5, (row.ours, row.theirs)
    assert len(plain) <= flips


@pytest.mark.parametrize("dtype", ["float16", "q8_0"])
def test_whisper_cpp_transcribes_the_same_with_128_mel_bins(dtype, large_v3, tmp_path):
    pytest.importorskip("pywhispercpp")
    parity = export_and_compare(large_v3, tmp_path, "ggml", dtype)
    assert_alike(parity, flips=1 if dtype == "float16" else 2)


@pytest.mark.slow
def test_faster_whisper_reads_128_mel_bins_and_writes_its_comparison(large_v3, tmp_path):
    pytest.importorskip("faster_whisper")
    parity = export_and_compare(large_v3, tmp_path, "ct2", "float32")
    # CTranslate2 takes this small model for English-only and leaves out language and task, so the texts differ in
    # their beginning; tests/model/test_save.py compares texts of models that it takes for what they are.
    assert parity.package == "faster-whisper"
    assert all(row.theirs.startswith(row.ours[:3]) for row in parity.differences if not row.timestamps)


@pytest.mark.long
def test_sherpa_onnx_transcribes_the_same_with_128_mel_bins(large_v3, tmp_path):
    pytest.importorskip("sherpa_onnx")
    parity = export_and_compare(large_v3, tmp_path, "onnx")
    assert_alike(parity)


def test_texts_that_differ_too_much_are_not_exported(large_v3, tmp_path, monkeypatch):
    class Silent:
        package, mel_padding, keeps_suppress_rules, has_timestamps = "silent", None, True, False
        tokens_per_second = None

        def transcribe(self, waveform, *, language, timestamps):
            return ""

    monkeypatch.setattr(run, "open_consumer", lambda *_: Silent())
    config = ExportConfig(check=tuple(write_recordings(tmp_path, 2)), threads=1)
    expected = (
        r"out: not exported, since the texts of silent differ from ours by 100.00% WER, more than --tolerance 0.02"
    )
    with pytest.raises(ExportError, match=expected):
        export_model(str(large_v3), tmp_path / "out", config)
    assert not list(Path(tmp_path).glob("*out*"))


def test_mel_bins_that_ctranslate2_does_not_read_are_noticed(large_v3, tmp_path, monkeypatch):
    ctranslate2 = pytest.importorskip("ctranslate2")

    class Old:
        def __init__(self, *_args, **_settings):
            """Have no mel bins, as versions before 3.21."""

    monkeypatch.setattr(ctranslate2.models, "Whisper", Old)
    with pytest.raises(
        ExportError, match=r"the model has 128 mel bins, CTranslate2 .* reads 80; install ctranslate2>="
    ):
        export_model(str(large_v3), tmp_path / "out", ExportConfig(format="ct2"))
