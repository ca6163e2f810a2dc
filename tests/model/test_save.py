import json
import os
import stat

import numpy as np
import pytest
import torch
from transformers import pipeline

from tests.conftest import WHISPER_BASE
from tests.inference.test_greedy import talkative
from tests.making import WORDS, make_waveform
from tests.model.making import make_batch
from tests.test_pretrained import read_16k
from whisper_shard.demo.tiny_whisper import make_tiny_whisper
from whisper_shard.errors import EnvironmentFault, ModelError
from whisper_shard.inference.greedy import greedy_decode
from whisper_shard.model.forward import SpeechLoss, encode
from whisper_shard.model.labels import Labeler
from whisper_shard.model.log_mel import LogMel
from whisper_shard.model.save import save_model_folder
from whisper_shard.model.whisper import load_whisper
from whisper_shard.model.window import fit_window
from whisper_shard.utterance import MAX_SAMPLES

CAP = 16


@pytest.fixture(scope="module", params=[80, 128])
def saved(request, tmp_path_factory):
    """A random English-only model and its folder."""
    folder = tmp_path_factory.mktemp("saved")
    sizes = {"width": 32, "encoder_layers": 1, "heads": 2, "n_mels": request.param, "is_multilingual": False}
    loaded = talkative(load_whisper(str(make_tiny_whisper(folder / "tiny", texts=WORDS, **sizes))))
    save_model_folder(loaded, folder / "model")
    return loaded, folder / "model"


def read_json(path):
    return json.loads(path.read_text("utf-8"))


@pytest.mark.slow
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


def test_files_of_transformers_4_are_there_too(saved):
    loaded, folder = saved
    extractor = read_json(folder / "preprocessor_config.json")
    assert (extractor["feature_size"], extractor["feature_extractor_type"]) == (
        loaded.n_mels, "WhisperFeatureExtractor"
    )  # fmt: skip
    vocabulary = read_json(folder / "vocab.json") | read_json(folder / "added_tokens.json")
    assert vocabulary == loaded.tokenizer.get_vocab()
    assert sorted(vocabulary.values()) == list(range(loaded.model.config.vocab_size))
    first, *merges = (folder / "merges.txt").read_text("utf-8").splitlines()
    assert first == "#version: 0.2"
    assert all("".join(merge.split(" ")) in vocabulary for merge in merges) and len(merges) > 10
    tokens = read_json(folder / "special_tokens_map.json")
    assert tokens["eos_token"] == "<|endoftext|>"
    assert tokens["additional_special_tokens"][:3] == ["<|endoftext|>", "<|startoftranscript|>", "<|en|>"]
    assert tokens["additional_special_tokens"][-1] == "<|notimestamps|>"


def test_the_tokenizer_has_one_form_of_special_tokens_for_both_versions(saved):
    loaded, folder = saved
    settings = read_json(folder / "tokenizer_config.json")
    assert "extra_special_tokens" not in settings, "transformers 4 wants a dict there, 5 writes a list"
    assert not {"is_local", "local_files_only"} & settings.keys()
    again = load_whisper(str(folder)).tokenizer
    assert again.extra_special_tokens == settings["additional_special_tokens"]
    text = "one <|en|>two na\u00efve"
    assert again(text).input_ids == loaded.tokenizer(text).input_ids
    save_model_folder(load_whisper(str(folder)), folder.parent / "again")
    assert read_json(folder.parent / "again" / "tokenizer_config.json") == settings


def test_generation_settings_of_the_base_are_kept(tiny, tmp_path):
    base = tiny.model.generation_config
    base.suppress_tokens = [3, 9]
    save_model_folder(tiny, tmp_path / "model", language="de", task="translate")
    settings = load_whisper(str(tmp_path / "model")).model.generation_config
    assert len(settings.lang_to_id) > 90
    for name in (
        "lang_to_id", "task_to_id", "alignment_heads", "suppress_tokens", "begin_suppress_tokens",
        "no_timestamps_token_id", "prev_sot_token_id", "max_initial_timestamp_index", "is_multilingual",
    ):  # fmt: skip
        assert getattr(settings, name) == getattr(base, name), name


def test_every_file_follows_the_umask(tiny, tmp_path):
    before = os.umask(0o027)
    try:
        save_model_folder(tiny, tmp_path / "model")
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "model").iterdir()}
    assert set(modes.values()) == {0o640}, modes


def convert(folder, out):
    """Convert a model folder as ct2-transformers-converter does, and load it with faster-whisper."""
    converters = pytest.importorskip("ctranslate2.converters")
    faster_whisper = pytest.importorskip("faster_whisper")
    files = ["tokenizer.json", "preprocessor_config.json"]
    converters.TransformersConverter(str(folder), copy_files=files).convert(str(out))
    return faster_whisper.WhisperModel(str(out), device="cpu", compute_type="float32", cpu_threads=1)


def transcribe(recognizer, waveform, **options):
    # faster-whisper pads its spectrogram, by a value louder than silence; Whisper itself pads the audio.
    window = np.pad(waveform, (0, MAX_SAMPLES - len(waveform)))
    segments, _ = recognizer.transcribe(
        window, language="en", beam_size=1, temperature=0.0, without_timestamps=True,
        max_new_tokens=2 * CAP - 2,  # CTranslate2 stops at half of this and the two tokens of an English-only prefix
        condition_on_previous_text=False, no_speech_threshold=None, log_prob_threshold=None,
        compression_ratio_threshold=None, **options,
    )  # fmt: skip
    return " ".join(segment.text.strip() for segment in segments)


@torch.no_grad()
def decode(loaded, waveforms):
    labeler = Labeler(loaded.tokenizer, is_multilingual=loaded.is_multilingual)
    windows = torch.cat([fit_window(torch.from_numpy(waveform)[None], MAX_SAMPLES) for waveform in waveforms])
    states = encode(loaded.model.eval(), LogMel(loaded.n_mels)(windows))
    found = greedy_decode(loaded.model, states, labeler.prefix_batch(len(windows)), max_new_tokens=CAP)
    return [labeler.decode(ids) for ids in found.token_ids]


def test_faster_whisper_transcribes_the_same(saved, tmp_path):
    loaded, folder = saved
    recognizer = convert(folder, tmp_path / "ct2")
    assert recognizer.feature_extractor.mel_filters.shape[0] == loaded.n_mels == recognizer.model.n_mels
    waveforms = [make_waveform(seconds, seed=seed).astype(np.float32) for seed, seconds in enumerate((1.0, 2.5, 4.0))]
    expected = decode(loaded, waveforms)
    assert len(set(expected)) == 3
    suppressed = loaded.model.generation_config.suppress_tokens
    assert [transcribe(recognizer, waveform, suppress_tokens=suppressed) for waveform in waveforms] == expected


@pytest.mark.slow
@pytest.mark.pretrained
def test_faster_whisper_transcribes_real_speech_the_same(whisper_base, tmp_path):
    save_model_folder(whisper_base, tmp_path / "model")
    recognizer = convert(tmp_path / "model", tmp_path / "ct2")
    assert recognizer.model.is_multilingual
    recordings = sorted((WHISPER_BASE.parents[1] / "data" / "spoken-digits" / "audios").glob("*_0.wav"))[::20]
    waveforms = [read_16k(path) for path in recordings]
    texts = [transcribe(recognizer, waveform, suppress_blank=True) for waveform in waveforms]
    assert texts == decode(whisper_base, waveforms)
