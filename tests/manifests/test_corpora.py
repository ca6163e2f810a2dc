"""The table of docs/corpora.md is what `prepare` does with a corpus in each format."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from tests.manifests import published
from whisper_shard.cli.main import run
from whisper_shard.dataset.index import open_dataset
from whisper_shard.dataset.verify import Fault, verify_dataset
from whisper_shard.manifests.formats import FORMATS

DOCUMENT = Path(__file__).parents[2] / "docs/corpora.md"
ROW = re.compile(r"^\| (.+?) \| `whisper-shard (prepare .+?)` \| (\d+) of (\d+) \| .+ \|$", re.MULTILINE)
CORPORA = {
    "corpus.csv.gz": published.make_csv,
    "manifest.json": published.make_nemo,
    "hub": published.make_hub,
    "corpus": published.make_audiofolder,
    "words": published.make_classes,
    "egs/data/train": published.make_kaldi,
    "LibriSpeech": published.make_librispeech,
    "LJSpeech-1.1": published.make_ljspeech,
    "cv-corpus/de": published.make_common_voice,
    "mls_polish": published.make_mls,
    "transcribed_data/en": published.make_voxpopuli,
    "manifests": published.make_lhotse,
    "talks": published.make_subtitles,
    "lectures": published.make_recordings,
}
"""The corpora that the commands of the table name, and what makes them."""
FIXTURES = {"test/fixtures/ljspeech/cuts.json": ("lhotse", "test/fixtures"), "examples/files": ("praatio", ".")}
"""Those that other tools ship: their folder in fixtures (see its README.md), and where it lies in the tool's source."""


def test_every_format_has_a_row_and_an_example():
    text = DOCUMENT.read_text()
    formats = {name for row in ROW.findall(text) for name in re.findall(r"`(\w+)`", row[0])}
    assert formats == set(FORMATS)
    overview = set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE))
    assert overview == set(FORMATS)


@pytest.mark.parametrize(("command", "kept", "rows"), [row[1:] for row in ROW.findall(DOCUMENT.read_text())])
def test_rows_kept(tmp_path, monkeypatch, capsys, command, kept, rows):
    monkeypatch.chdir(tmp_path)
    arguments = shlex.split(command)
    name = arguments[1]
    if name in FIXTURES:
        folder, place = FIXTURES[name]
        shutil.copytree(Path(__file__).parent / "fixtures" / folder, tmp_path / place, dirs_exist_ok=True)
    else:
        CORPORA[name](tmp_path if Path(name).suffix in (".gz", ".json") else tmp_path / name)
    assert run([*arguments, "--jobs", "1", "--trim-db", "0"]) == 0, capsys.readouterr().err
    shown = capsys.readouterr().out
    datasets = [open_dataset(path.parent) for path in sorted(tmp_path.glob("data/*/dataset.json"))]
    assert sum(dataset.num_utterances for dataset in datasets) == int(kept)
    assert f"{rows} rows" in shown
    assert "note: " in shown
    assert not [fault for dataset in datasets for fault in verify_dataset(dataset.folder) if isinstance(fault, Fault)]
