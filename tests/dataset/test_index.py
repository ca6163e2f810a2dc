import json

import pyarrow.parquet as pq
import pytest

from tests.making import make_dataset
from whisper_shard.dataset import index as index_module
from whisper_shard.dataset.index import IndexReader, open_dataset
from whisper_shard.errors import DatasetError
from whisper_shard.storage.atomic import sha256_of_file


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
        ({"index": {"sha256": "00"}}, r"not a dataset description \(KeyError\('num_bytes'\)\)"),
        ({"index": {"sha256": "00", "num_bytes": 7}}, r"index.parquet: has \d+ bytes, dataset.json says 7; restore it"),
        ({"lengths": {"sha256": "00", "num_bytes": 7}}, r"lengths.arrow: has \d+ bytes, dataset.json says 7"),
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
    with pytest.raises(DatasetError, match=r"sha256 is .*, but 1234 is required"):
        open_dataset(dataset.folder, sha256="1234")
    (dataset.folder / "index.parquet").unlink()
    with pytest.raises(DatasetError, match=r"index.parquet: is missing"):
        open_dataset(dataset.folder)
    with pytest.raises(DatasetError, match=r"trian: no finished dataset here .*did you mean 'train'\?"):
        open_dataset(dataset.folder.with_name("trian"))


@pytest.mark.parametrize("name", ["index.parquet", "lengths.arrow"])
def test_a_changed_byte_is_found_when_the_dataset_is_opened(dataset, name):
    flip_bit(dataset.folder / name, 100)
    with pytest.raises(DatasetError, match=rf"{name}: has sha256 .*, dataset.json says [0-9a-f]{{64}}; restore it"):
        open_dataset(dataset.folder)


def flip_bit(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 4
    path.write_bytes(content)


def test_a_changed_page_of_a_long_index_is_found_when_it_is_read(dataset, monkeypatch):
    monkeypatch.setattr(index_module, "_HASHED_BYTES", 0)
    column = pq.read_metadata(dataset.folder / "index.parquet").row_group(0).column(3)
    place = column.dictionary_page_offset + column.total_compressed_size - 4
    flip_bit(dataset.folder / "index.parquet", place)
    opened = open_dataset(dataset.folder)
    assert opened.columns("num_samples")["num_samples"].tolist() == [4800, 3200, 6400]
    with pytest.raises(DatasetError, match=r"index.parquet: cannot be read \(.*CRC.*\); restore it"):
        opened.columns("audio_offset")
    with pytest.raises(DatasetError, match=r"index.parquet: cannot be read \(.*CRC.*\); restore it"):
        IndexReader(opened).rows(0, "audio_offset")
    with pytest.raises(DatasetError, match=r"index.parquet: has sha256"):
        open_dataset(dataset.folder, sha256=sha256_of_file(dataset.folder / "dataset.json"))


def test_lengths_are_mapped_and_those_of_the_index(dataset):
    lengths = dataset.columns("num_samples", "num_chars")
    assert not lengths["num_samples"].flags.owndata and not lengths["num_samples"].flags.writeable
    meta = json.loads((dataset.folder / "dataset.json").read_text())
    del meta["lengths"]
    (dataset.folder / "dataset.json").write_text(json.dumps(meta))
    older = open_dataset(dataset.folder).columns("num_samples", "num_chars", "shard")
    assert all(lengths[name].tolist() == older[name].tolist() for name in lengths)
