import random
import shutil
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.making import make_dataset
from tests.s3 import BUCKET, upload_folder
from whisper_shard.dataset import index as index_module
from whisper_shard.dataset.index import open_dataset
from whisper_shard.dataset.schema import INDEX_SCHEMA
from whisper_shard.dataset.shard import BLOCK
from whisper_shard.dataset.verify import Fault, ShardChecked, verify_dataset
from whisper_shard.dataset.writer import write_description, write_index
from whisper_shard.errors import DatasetError
from whisper_shard.storage.location import parse_location
from whisper_shard.storage.object_store import ObjectStore


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dataset") / "train"
    make_dataset(folder, [0.3, 0.2, 0.25, 0.3, 0.2], per_shard=3)
    return folder


@pytest.fixture
def dataset(sound, tmp_path):
    return open_dataset(shutil.copytree(sound, tmp_path / "copy"))


def faults(folder):
    return [event for event in verify_dataset(folder) if isinstance(event, Fault)]


def flip(path, position, bit=0):
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << bit
    path.write_bytes(content)


def test_sound_dataset_has_no_fault(sound):
    events = list(verify_dataset(sound))
    assert [event.num_utterances for event in events if isinstance(event, ShardChecked)] == [3, 5]
    assert not faults(sound)


def owner_of(dataset, position):
    """Return the key of the utterance whose headers, bodies or padding hold a byte of shard 0."""
    columns = dataset.columns("key", "shard", "audio_offset", "json_offset", "json_bytes")
    for i in range(3):
        end = columns["json_offset"][i] + columns["json_bytes"][i]
        if columns["audio_offset"][i] - BLOCK <= position < end + -end % BLOCK:
            return columns["key"][i]
    return None


def test_any_changed_byte_of_a_shard_is_found_and_named(dataset):
    path, draws = dataset.shard_path(0), random.Random(0)
    whole = path.read_bytes()
    edges = [0, BLOCK - 1, BLOCK, len(whole) - 1, len(whole) - 2 * BLOCK]
    for position in [*edges, *(draws.randrange(len(whole)) for _ in range(100))]:
        flip(path, position, draws.randrange(8))
        (fault,) = faults(dataset.folder)
        assert (fault.file, fault.key) == ("shards/000000.tar", owner_of(dataset, position)), position
        path.write_bytes(whole)


@pytest.mark.parametrize("name", ["index.parquet", "lengths.arrow", "dataset.json"])
def test_any_changed_byte_beside_the_shards_is_found(dataset, name):
    path, draws = dataset.folder / name, random.Random(1)
    whole = path.read_bytes()
    for _ in range(60):
        flip(path, draws.randrange(len(whole)), draws.randrange(7))
        assert faults(dataset.folder)
        path.write_bytes(whole)


def test_an_index_too_long_to_be_hashed_at_each_opening_is_hashed(dataset, monkeypatch):
    monkeypatch.setattr(index_module, "_HASHED_BYTES", 0)
    flip(dataset.folder / "index.parquet", 100)
    assert open_dataset(dataset.folder) == dataset
    (fault,) = faults(dataset.folder)
    assert fault.file == "index.parquet" and "has sha256" in fault.detail


def test_lengths_that_are_not_those_of_the_index_are_found(dataset, tmp_path):
    tables = [pq.read_table(dataset.folder / "index.parquet").slice(start, count) for start, count in ((0, 3), (3, 2))]
    other = tables[1].set_column(10, INDEX_SCHEMA.field("num_chars"), pa.array([1, 2], pa.int32()))
    info = write_index(tmp_path, [tables[0], other])
    shutil.copy(tmp_path / "lengths.arrow", dataset.folder)
    index = write_index(dataset.folder.parent, tables)
    index = replace(index, lengths=info.lengths)
    write_description(dataset.folder, shards=dataset.shards, index=index, meta={})
    assert [(fault.file, fault.detail) for fault in faults(dataset.folder)] == [
        ("lengths.arrow", "num_chars differs from index.parquet in shards/000001.tar")
    ]


@pytest.mark.parametrize("keep", [0, 100, BLOCK, 5 * BLOCK, -2 * BLOCK, -1])
def test_cut_shard_is_found(dataset, keep):
    path = dataset.shard_path(1)
    path.write_bytes(path.read_bytes()[:keep])
    found = faults(dataset.folder)
    assert found
    assert {fault.file for fault in found} == {"shards/000001.tar"}


def test_missing_swapped_and_foreign_files_are_found(dataset):
    one, other = dataset.shard_path(0), dataset.shard_path(1)
    one.rename(dataset.folder / "kept")
    assert [(fault.file, fault.detail) for fault in faults(dataset.folder)] == [
        ("shards/000000.tar", "is missing or empty")
    ]
    shutil.copy(other, one)
    assert len(faults(dataset.folder)) > 1
    (dataset.folder / "kept").rename(one)
    (dataset.folder / "shards/000009.tar").write_bytes(b"")
    assert [(fault.file, fault.detail) for fault in faults(dataset.folder)] == [
        ("shards/000009.tar", "is not listed in dataset.json")
    ]


def test_missing_folder_of_shards_is_a_fault_of_each(dataset):
    shutil.rmtree(dataset.folder / "shards")
    assert [(fault.file, fault.detail) for fault in faults(dataset.folder)] == [
        ("shards/000000.tar", "is missing or empty"),
        ("shards/000001.tar", "is missing or empty"),
    ]


def test_no_dataset(tmp_path):
    with pytest.raises(DatasetError, match="no finished dataset here"):
        list(verify_dataset(tmp_path))


class TestInABucket:
    @pytest.fixture
    def url(self, s3, sound, request):
        url = f"s3://{BUCKET}/{request.node.name}"
        upload_folder(sound, url)
        s3.reset_counts()
        return url

    def test_a_sound_dataset_is_read_once(self, s3, url, sound):
        events = list(verify_dataset(url))
        assert events == list(verify_dataset(sound))
        assert not [event for event in events if isinstance(event, Fault)]
        assert s3.num_gets("shards/000000.tar") == s3.num_gets("shards/000001.tar") == 1

    def test_faults_are_those_of_the_disk(self, s3, url, sound, tmp_path):
        copy = shutil.copytree(sound, tmp_path / "copy")
        first, second = copy / "shards/000000.tar", copy / "shards/000001.tar"
        content = bytearray(first.read_bytes())
        content[1000] ^= 1
        first.write_bytes(content)
        second.write_bytes(second.read_bytes()[:-512])
        (copy / "shards/extra.tar").touch()
        upload_folder(copy, url)
        found = [event for event in verify_dataset(url) if isinstance(event, Fault)]
        assert found == [event for event in verify_dataset(copy) if isinstance(event, Fault)]
        assert {fault.file for fault in found} == {"shards/000000.tar", "shards/000001.tar", "shards/extra.tar"}

    def test_missing_shards_and_a_changed_index(self, s3, url, sound):
        store, folder = ObjectStore(), parse_location(url)
        store.delete(folder.join("shards/000000.tar"))
        store.put(folder.join("shards/000001.tar"), b"")
        faults = [event for event in verify_dataset(url) if isinstance(event, Fault)]
        assert [(fault.file, fault.detail) for fault in faults] == [
            ("shards/000000.tar", "is missing or empty"),
            ("shards/000001.tar", "is missing or empty"),
        ]
        # A copy of the right index is on this machine; what is verified is the bucket.
        content = (sound / "index.parquet").read_bytes()
        store.put(folder.join("index.parquet"), content[:-1] + b"x")
        (fault,) = verify_dataset(url)
        assert fault.file == "index.parquet"
        assert "has sha256" in fault.detail

    def test_no_dataset(self, s3):
        with pytest.raises(DatasetError, match=f"s3://{BUCKET}/none: no finished dataset here"):
            list(verify_dataset(f"s3://{BUCKET}/none"))
