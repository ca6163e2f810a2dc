"""A corpus of twenty sentences, prepared, and a small model: what all commands are tried on."""

import pytest

from tests.cli.commands.running import QUICK
from whisper_shard.cli.main import run
from whisper_shard.dataset.index import open_dataset
from whisper_shard.demo.speech import make_corpus
from whisper_shard.demo.tiny_whisper import make_tiny_whisper


@pytest.fixture(scope="package")
def folder(tmp_path_factory):
    """A folder with corpus/, data/ and tiny/."""
    folder = tmp_path_factory.mktemp("commands")
    list(make_corpus(folder / "corpus", num_utterances=20))
    assert run(["prepare", str(folder / "corpus/corpus.csv"), str(folder / "data"), *QUICK]) == 0
    texts = open_dataset(folder / "data/train").columns("text")["text"].tolist()
    make_tiny_whisper(folder / "tiny", texts=texts, width=32, encoder_layers=1, decoder_layers=1, heads=2)
    return folder
