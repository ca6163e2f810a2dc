import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.dataset.test_description import change
from tests.making import make_dataset
from whisper_shard.dataset import index as index_module
from whisper_shard.dataset.index import IndexReader, open_dataset
from whisper_shard.dataset.schema import INDEX_SCHEMA
from whisper_shard.dataset.writer import write_dataset
from whisper_shard.errors import DatasetError
from whisper_shard.storage.atomic import sha256_of_file


@pytest.fixture
def dataset(tmp_path):
    return make_dataset(tmp_path / "out/train", [0.3, 0.2, 0.4], per_shard=2)


def test_dataset_knows_its_totals(dataset):
    assert (dataset.num_utterances, dataset.num_samples, len(dataset.shards)) == (3, 14_400, 2)
    assert dataset.columns("shard", "row")["shard"].tolist() == [0, 0, 1]
    assert open_dataset(dataset.folder, sha256=sha256_of_file(dataset.folder / "dataset.json")) == dataset


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


def test_a_missing_index_is_named(dataset):
    (dataset.folder / "index.parquet").unlink()
    with pytest.raises(DatasetError, match=r"index.parquet: is missing"):
        open_dataset(dataset.folder)


@pytest.mark.parametrize(("name", "part"), [("index.parquet", "index"), ("lengths.arrow", "lengths")])
def test_an_index_of_another_size_is_refused(dataset, name, part):
    change(dataset.folder, **{part: {"sha256": "0" * 64, "num_bytes": 7}})
    with pytest.raises(DatasetError, match=rf"{name}: has \d+ bytes, dataset.json says 7; restore it"):
        open_dataset(dataset.folder)


def test_rows_are_located(dataset):
    index = IndexReader(dataset)
    assert [index.locate(row) for row in range(3)] == [(0, 0), (0, 1), (1, 0)]
    assert [index.key(row) for row in range(3)] == dataset.columns("key")["key"].tolist()
    assert [index.find(row)[1].key for row in range(3)] == dataset.columns("key")["key"].tolist()


@pytest.mark.parametrize(("name", "value"), [("audio_offset", 100), ("json_offset", 2048), ("json_bytes", 10**6)])
def test_an_index_that_points_astray(dataset, name, value):
    columns = pq.read_table(dataset.folder / "index.parquet").to_pydict()
    columns[name][1] = value
    table = pa.table(columns, schema=INDEX_SCHEMA)
    write_dataset(dataset.folder, shards=dataset.shards, tables=[table.slice(0, 2), table.slice(2)], meta={})
    with pytest.raises(
        DatasetError, match=r"index.parquet: places 'utt00001' at bytes \d+ to \d+ of a shard of \d+ bytes"
    ):
        IndexReader(open_dataset(dataset.folder)).find(0)


def test_an_index_whose_row_groups_are_not_shards(dataset):
    table = pq.read_table(dataset.folder / "index.parquet")
    write_dataset(dataset.folder, shards=dataset.shards, tables=[table.slice(0, 1), table.slice(1)], meta={})
    with pytest.raises(DatasetError, match=r"its row groups are not the shards of dataset.json"):
        IndexReader(open_dataset(dataset.folder))
