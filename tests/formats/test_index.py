import json

import pytest

from tests.making import make_dataset
from whisper_shard.errors import DatasetError
from whisper_shard.formats.index import open_dataset
from whisper_shard.formats.storage import sha256_of_file


@pytest.fixture
def dataset(tmp_path):
    return make_dataset(tmp_path / "out/train", [0.3, 0.2, 0.4], per_shard=2)


def test_dataset_knows_its_totals(dataset):
    assert (dataset.num_utterances, dataset.num_samples, len(dataset.shards)) == (3, 14_400, 2)
    assert dataset.columns("shard", "row")["shard"].tolist() == [0, 0, 1]
    assert open_dataset(dataset.folder, sha256=sha256_of_file(dataset.folder / "dataset.json")) == dataset


def change(dataset, **fields):
    path = dataset.folder / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"format_version": 9}, r"format version 9, this program reads 1"),
        ({"totals": {}}, r"not a dataset description \(KeyError\('num_utterances'\)\)"),
        ({"shards": 3}, r"not a dataset description"),
        ({"index": {"sha256": "00"}}, r"index.parquet: has sha256 .*, dataset.json says 00; restore it"),
        (
            {"shards": [{"name": "shards/../../x", "num_bytes": 1, "sha256": "", "num_utterances": 1}]},
            r"names 'shards/\.\./\.\./x' as a shard",
        ),
    ],
)
def test_descriptions_that_cannot_be_trusted(dataset, fields, message):
    change(dataset, **fields)
    with pytest.raises(DatasetError, match=message):
        open_dataset(dataset.folder)


def test_missing_dataset_and_pinned_digest(dataset, tmp_path):
    with pytest.raises(DatasetError, match=r"no finished dataset here .*did you mean .*out/train\?"):
        open_dataset(tmp_path / "out")
    with pytest.raises(DatasetError, match=r"run `whisper-shard prepare` first"):
        open_dataset(tmp_path)
    with pytest.raises(DatasetError, match=r"sha256 is .*, but 1234 was asked for"):
        open_dataset(dataset.folder, sha256="1234")
    (dataset.folder / "index.parquet").unlink()
    with pytest.raises(DatasetError, match=r"index.parquet: is missing"):
        open_dataset(dataset.folder)
