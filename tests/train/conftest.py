"""Small random models, made once a session, and the real weights where they lie beside the checkout."""

from pathlib import Path

import pytest

from tests.making import WORDS
from tests.train.running import make_task, tiny_config
from whisper_shard.config import TrainConfig
from whisper_shard.train.loop import train_model
from whisper_shard.train.model import LoadedWhisper, load_whisper
from whisper_shard.train.runfolder import TrainReport
from whisper_shard.train.tiny import make_tiny_whisper

WHISPER_BASE = Path(__file__).parents[3] / "shared" / "models" / "whisper-base"


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random multilingual Whisper of width 32 with the window of 30 s."""
    return make_tiny_whisper(
        tmp_path_factory.mktemp("tiny"), texts=WORDS, width=32, encoder_layers=2, decoder_layers=2, heads=2
    )


@pytest.fixture(scope="session")
def english_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same without language and task tokens, like the .en models."""
    return make_tiny_whisper(
        tmp_path_factory.mktemp("english"), texts=WORDS, width=32, encoder_layers=1, heads=2, is_multilingual=False
    )


@pytest.fixture
def tiny(tiny_folder: Path) -> LoadedWhisper:
    """A fresh copy of the tiny model."""
    return load_whisper(str(tiny_folder))


@pytest.fixture
def english(english_folder: Path) -> LoadedWhisper:
    """A fresh copy of the English-only tiny model."""
    return load_whisper(str(english_folder))


@pytest.fixture(scope="session")
def whisper_base() -> LoadedWhisper:
    """OpenAI's whisper-base; do not change it."""
    if not WHISPER_BASE.is_dir():
        pytest.skip(f"real weights are not at {WHISPER_BASE}")
    return load_whisper(str(WHISPER_BASE))


@pytest.fixture(scope="session")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Training and evaluation data and a tiny Whisper: 6 steps of 6 utterances in 3 epochs."""
    return make_task(tmp_path_factory.mktemp("task"))


@pytest.fixture(scope="session")
def finished(task: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainConfig, list, TrainReport]:
    """A run of 6 steps with everything switched on: its folder, settings, events and report."""
    events: list = []
    run = tmp_path_factory.mktemp("finished") / "run"
    config = tiny_config(
        task, tensorboard=True, average=2, interpolate=True, ema=0.9, spec_augment=True, stochastic_depth=0.1,
        label_smoothing=0.1, timestamps=0.5, precision="bf16", full_final=0.2,
    )  # fmt: skip
    return run, config, events, train_model(task, run, config, events.append)
