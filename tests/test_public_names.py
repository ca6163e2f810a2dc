"""The public names are a list, each loads, and every example in the documents imports from there."""

import re
from pathlib import Path

import pytest

import whisper_shard

NAMES = [
    "Batch", "BenchConfig", "Dataset", "ExportConfig", "IndexConfig", "Labeler", "Ledger", "Loader", "LogMel",
    "PlanState", "PrepareConfig", "ScoreConfig", "SpeechLoss", "StorageConfig", "StreamConfig", "TrainConfig",
    "TranscribeConfig", "WhisperShardError", "__version__", "export_model", "filter_dataset", "fit_window",
    "index_tars", "load_error_rates", "load_whisper", "open_dataset", "open_evaluation", "open_loader",
    "plan_state_from_json", "prepare_corpus", "register_gopen", "score_hypotheses", "score_model",
    "train_model", "transcribe_recordings", "verify_dataset",
]  # fmt: skip
DOCUMENTS = [Path("README.md"), *sorted(Path("docs").glob("*.md"))]


def test_the_list_of_public_names():
    assert dir(whisper_shard) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_each_public_name_loads(name):
    assert getattr(whisper_shard, name) is not None


def test_an_unknown_name():
    with pytest.raises(AttributeError, match="module 'whisper_shard' has no attribute 'open_everything'"):
        _ = whisper_shard.open_everything


@pytest.mark.parametrize("path", DOCUMENTS, ids=str)
def test_examples_import_public_names_only(path):
    for module, names in re.findall(r"from (whisper_shard[\w.]*) import ([\w, ]+)", path.read_text()):
        assert module == "whisper_shard", f"{path}: {module}"
        assert set(names.split(", ")) <= set(NAMES), f"{path}: {names}"
