"""What all tests need: small random models, made once a session, and real weights where they lie beside the checkout.

torch is imported inside the fixtures, so that the tests of the offline half start without it.
"""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.making import WORDS

if TYPE_CHECKING:
    from tests.s3 import FaultProxy, S3Server
    from whisper_shard.config.train import TrainConfig
    from whisper_shard.model.whisper import LoadedWhisper
    from whisper_shard.train.run.folder import TrainReport

WHISPER_BASE = Path(__file__).parents[2] / "shared" / "models" / "whisper-base"


def pytest_configure() -> None:
    """Let Ctrl-C reach what tests start: what a shell runs in the background ignores it, and so do its children."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random multilingual Whisper of width 32 with the window of 30 s."""
    from whisper_shard.demo.tiny_whisper import make_tiny_whisper

    return make_tiny_whisper(
        tmp_path_factory.mktemp("tiny"), texts=WORDS, width=32, encoder_layers=2, decoder_layers=2, heads=2
    )


@pytest.fixture(scope="session")
def english_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same without language and task tokens, like the .en models."""
    from whisper_shard.demo.tiny_whisper import make_tiny_whisper

    return make_tiny_whisper(
        tmp_path_factory.mktemp("english"), texts=WORDS, width=32, encoder_layers=1, heads=2, is_multilingual=False
    )


@pytest.fixture(scope="session")
def large_v3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random model of width 64 with the 128 mel bins and 51,866 tokens that exports have built in."""
    import torch

    from tests.export.making import make_large_v3_shaped

    with torch.no_grad():
        return make_large_v3_shaped(tmp_path_factory.mktemp("large-v3"))


@pytest.fixture
def tiny(tiny_folder: Path) -> "LoadedWhisper":
    """A fresh copy of the tiny model."""
    from whisper_shard.model.whisper import load_whisper

    return load_whisper(str(tiny_folder))


@pytest.fixture
def english(english_folder: Path) -> "LoadedWhisper":
    """A fresh copy of the English-only tiny model."""
    from whisper_shard.model.whisper import load_whisper

    return load_whisper(str(english_folder))


@pytest.fixture(scope="session")
def whisper_base() -> "LoadedWhisper":
    """OpenAI's whisper-base; do not change it."""
    if not WHISPER_BASE.is_dir():
        pytest.skip(f"real weights are not at {WHISPER_BASE}")
    from whisper_shard.model.whisper import load_whisper

    return load_whisper(str(WHISPER_BASE))


@pytest.fixture(scope="session")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Training and evaluation data and a tiny Whisper: 6 steps of 6 utterances in 3 epochs."""
    from tests.train.running import make_task

    return make_task(tmp_path_factory.mktemp("task"))


@pytest.fixture(scope="session")
def finished(task: Path, tmp_path_factory: pytest.TempPathFactory) -> "tuple[Path, TrainConfig, list, TrainReport]":
    """A run of 6 steps with everything switched on: its folder, settings, events and report."""
    from tests.train.running import tiny_config
    from whisper_shard.train.loop import train_model

    events: list = []
    run = tmp_path_factory.mktemp("finished") / "run"
    config = tiny_config(
        task, tensorboard=True, average=2, interpolate=True, ema=0.9, spec_augment=True, stochastic_depth=0.1,
        label_smoothing=0.1, timestamps=0.5, precision="bf16", full_final=0.2,
    )  # fmt: skip
    return run, config, events, train_model(task, run, config, events.append)


@pytest.fixture(scope="session")
def s3_server() -> "Iterator[S3Server]":
    """A real S3 server on loopback."""
    from tests.s3 import running_s3

    with running_s3() as server:
        yield server


@pytest.fixture
def s3(s3_server: "S3Server", monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> "Iterator[FaultProxy]":
    """A proxy that counts and injects faults; the environment leads to the server through it."""
    from tests.s3 import FaultProxy, environment

    proxy = FaultProxy(s3_server.port)
    for name, value in environment(proxy.endpoint).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home-cache"))
    # Only now: a thread of an earlier test that still reads may have opened a store without credentials meanwhile.
    yield proxy
    proxy.refuse()


@pytest.fixture(scope="session")
def https_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path, Path]]:
    """A web server with TLS: its URL, the certificate of its authority, and the folder that it serves."""
    from tests.s3 import ScriptedServer, make_certificates, serve_folder

    folder = tmp_path_factory.mktemp("https")
    authority, certificate, key = make_certificates(tmp_path_factory.mktemp("certificates"))
    with ScriptedServer(serve_folder(folder), certificate=(certificate, key)) as server:
        yield server.endpoint, authority, folder
