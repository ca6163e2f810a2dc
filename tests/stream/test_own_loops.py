"""The programs of docs/streaming.md that train on batches without `train`, run as they are printed there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.making import make_dataset
from whisper_shard.config.stream import StreamConfig
from whisper_shard.dataset.index import open_dataset
from whisper_shard.model.forward import SpeechLoss
from whisper_shard.model.labels import Labeler
from whisper_shard.model.whisper import load_whisper
from whisper_shard.model.window import fit_window
from whisper_shard.stream.loader import open_loader
from whisper_shard.utterance import MAX_SAMPLES

SECONDS = (0.5, 0.7, 0.9, 1.1, 1.4, 1.6, 2.0, 2.2, 2.5, 2.7, 3.0, 3.1, 3.2, 3.3, 3.4, 3.5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    make_dataset(folder / "train", SECONDS)
    document = Path("docs/streaming.md").read_text()
    for block in re.findall(r"```python\n(# (\w+\.py) DATASET.*?)```", document, flags=re.DOTALL):
        (folder / block[1]).write_text(block[0])
    return folder


@pytest.fixture(scope="module")
def expected(folder, tiny_folder):
    """The losses of the two steps, computed here."""
    loaded = load_whisper(str(tiny_folder))
    labeler, network = Labeler(loaded.tokenizer), SpeechLoss(loaded.model).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-5)
    losses = []
    for batch in open_loader(open_dataset(folder / "train"), StreamConfig(batch_size=8, workers=0), epochs=1):
        labels = labeler.label_batch(batch.texts)
        waveforms = fit_window(batch.waveforms, MAX_SAMPLES)
        loss, tokens = network(waveforms, labels.decoder_input_ids, labels.labels, batch.num_samples)
        (loss / tokens).backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append((loss / tokens).item())
    return losses


def losses_of(words, folder, model):
    ran = subprocess.run(
        [*words, "train", str(model)],
        cwd=folder,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path.cwd()), "OMP_NUM_THREADS": "1"},
    )
    assert ran.returncode == 0, ran.stderr
    return [float(loss) for loss in re.findall(r"^step \d+: loss ([\d.]+)$", ran.stdout, flags=re.MULTILINE)]


@pytest.mark.slow
@pytest.mark.parametrize("program", ["own_loop.py", "with_accelerate.py", "with_lightning.py"])
def test_each_program_trains(program, folder, tiny_folder, expected):
    if program == "with_lightning.py":
        pytest.importorskip("pytorch_lightning", reason="pytorch-lightning is not installed (it is in the extra dev)")
    assert len(expected) == 2
    assert losses_of([sys.executable, program], folder, tiny_folder) == pytest.approx(expected, abs=1e-4)


@pytest.mark.long
def test_two_ranks_have_the_losses_of_one(folder, tiny_folder, expected, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    assert losses_of([*launch, "with_accelerate.py"], folder, tiny_folder) == pytest.approx(expected, abs=1e-4)


def test_the_document_shows_three_programs(folder):
    shown = {path.name for path in folder.glob("*.py")}
    assert shown == {"own_loop.py", "with_accelerate.py", "with_lightning.py"}
