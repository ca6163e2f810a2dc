"""Datasets named by a URL: their index is copied to this machine once, checked, and used by all processes."""

import json
import multiprocessing
import shutil

import pytest

from tests.dataset.test_description import change
from tests.making import make_dataset
from tests.s3 import BUCKET, upload_folder
from whisper_shard.dataset import index_copy
from whisper_shard.dataset.description import MAX_BYTES
from whisper_shard.dataset.index import IndexReader, open_dataset
from whisper_shard.errors import ConfigError, DatasetError, EnvironmentFault
from whisper_shard.storage.atomic import sha256_of_file
from whisper_shard.storage.location import parse_location
from whisper_shard.storage.object_store import ObjectStore
from whisper_shard.storage.stores import StorageConfig

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def local(tmp_path):
    return make_dataset(tmp_path / "data/train", [0.3, 0.2, 0.4], per_shard=2)


@pytest.fixture
def url(s3, local, request):
    url = f"s3://{BUCKET}/{request.node.name.partition('[')[0]}/data/train"
    upload_folder(local.folder, url)
    s3.reset_counts()
    return url


def test_a_dataset_in_a_bucket_is_that_of_the_disk(s3, url, local, tmp_path):
    dataset = open_dataset(url)
    assert dataset.description == local.description
    assert str(dataset.location) == url
    assert str(dataset.shard_location(1)) == f"{url}/shards/000001.tar"
    assert dataset.columns("key", "text")["text"].tolist() == local.columns("text")["text"].tolist()
    assert dataset.columns("num_samples")["num_samples"].tolist() == [4800, 3200, 6400]
    assert IndexReader(dataset).places(1) == IndexReader(local).places(1)
    assert s3.num_gets("dataset.json") == s3.num_gets("index.parquet") == s3.num_gets("lengths.arrow") == 1
    assert s3.num_gets("shards") == 0
    assert dataset.folder.is_relative_to(tmp_path / "home-cache")


def test_a_second_process_finds_the_copy(s3, url):
    first = open_dataset(url)
    s3.reset_counts()
    assert open_dataset(url) == first
    assert s3.counts == {"GET": 1}  # dataset.json itself


def test_a_damaged_copy_is_fetched_again(s3, url):
    path = open_dataset(url).folder / "index.parquet"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"x")
    (path.parent / "index.parquet.tmp.4711").write_bytes(b"left by a killed process")
    assert open_dataset(url).columns("row")["row"].tolist() == [0, 1, 0]
    assert path.read_bytes() == content
    assert not list(path.parent.glob("*.tmp.*"))


def test_processes_that_open_at_the_same_time_fetch_once(s3, url):
    s3.delay_seconds = 0.2
    context = multiprocessing.get_context("spawn")  # a forkserver has the environment of an earlier test
    with context.Pool(3) as pool:
        assert pool.map(_open_and_count, [url] * 3) == [3, 3, 3]
    assert s3.num_gets("index.parquet") == s3.num_gets("lengths.arrow") == 1


def _open_and_count(url: str) -> int:
    return open_dataset(url).num_utterances


def test_the_required_digest_is_that_of_dataset_json(s3, url, local):
    digest = sha256_of_file(local.folder / "dataset.json")
    assert open_dataset(url, sha256=digest).description == local.description
    with pytest.raises(DatasetError, match=rf"{url}/dataset.json: sha256 is {digest}, but 0123 is required"):
        open_dataset(url, sha256="0123")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("index.parquet", b"", r"index.parquet: ends too early; restore it"),
        ("index.parquet", b"x", r"index.parquet: has 1 bytes, must have \d+; restore it"),
        ("index.parquet", None, r"index.parquet: is missing; restore it or prepare the dataset again"),
        ("lengths.arrow", b"x", r"lengths.arrow: has 1 bytes, must have \d+; restore it"),
        ("dataset.json", b"{", r"dataset.json: not a dataset description"),
        ("dataset.json", bytes(MAX_BYTES + 1), r"dataset.json: has 67108865 bytes, at most 67108864 are expected"),
    ],
)
def test_what_lies_there_is_not_believed(s3, url, tmp_path, name, content, message):
    location = parse_location(url).join(name)
    if content is None:
        ObjectStore().delete(location)
    else:
        ObjectStore().put(location, content)
    with pytest.raises(DatasetError, match=rf"^{url}/{message}"):
        open_dataset(url)
    assert not list((tmp_path / "home-cache").rglob("*.parquet")) or name == "lengths.arrow"


def test_an_index_of_the_right_length_with_other_bytes(s3, url, local):
    content = (local.folder / "index.parquet").read_bytes()
    ObjectStore().put(parse_location(url).join("index.parquet"), content[:-1] + b"x")
    with pytest.raises(DatasetError, match=rf"{url}/index.parquet: has sha256 [0-9a-f]+, dataset.json says"):
        open_dataset(url)


def test_an_index_too_long_for_its_utterances_is_not_fetched(s3, url, local):
    change(local.folder, index={"num_bytes": 1 << 40, "sha256": "0" * 64})
    ObjectStore().put(parse_location(url).join("dataset.json"), local.folder / "dataset.json")
    s3.reset_counts()
    with pytest.raises(DatasetError, match=r"index.parquet: 1099511627776 bytes for 3 utterances cannot be right"):
        open_dataset(url)
    assert s3.num_gets("index.parquet") == 0


def test_a_folder_without_a_dataset_says_where_there_is_one(s3, url):
    parent = url.removesuffix("/train")
    with pytest.raises(DatasetError, match=rf"^{parent}: no finished dataset here .*; did you mean {url}\?$"):
        open_dataset(parent)
    with pytest.raises(
        DatasetError, match=rf"^s3://{BUCKET}: no finished dataset here .*; run `whisper-shard prepare`"
    ):
        open_dataset(f"s3://{BUCKET}")
    with pytest.raises(ConfigError, match=r"s3://nowhere/data/dataset\.json: there is no bucket 'nowhere' there"):
        open_dataset("s3://nowhere/data")


def test_a_copy_that_cannot_be_kept(s3, url, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(EnvironmentFault, match="cannot keep a copy of the index: Not a directory; set XDG_CACHE_HOME"):
        open_dataset(url)


def test_the_copy_lies_in_the_home_where_nothing_else_is_said(s3, url, tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert open_dataset(url).folder.parent == tmp_path / ".cache/whisper-shard"


def test_a_broken_network_is_one_error(s3, url):
    s3.inject("cut", part="index.parquet", after_bytes=100)
    storage = StorageConfig(request_timeout_seconds=1.0, retry_budget_seconds=1.0)
    with pytest.raises(EnvironmentFault, match=rf"{url}/index.parquet: the connection breaks; given up after \d s"):
        open_dataset(url, storage=storage)
    s3.heal()
    assert open_dataset(url, storage=storage).num_utterances == 3


def test_https(https_server, local, monkeypatch, tmp_path):
    endpoint, authority, folder = https_server
    shutil.copytree(local.folder, folder / "some data", dirs_exist_ok=True)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(authority))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "copies"))
    dataset = open_dataset(f"{endpoint}/some%20data")
    assert dataset.columns("key")["key"].tolist() == local.columns("key")["key"].tolist()
    assert str(dataset.shard_location(0)) == f"{endpoint}/some%20data/shards/000000.tar"


def test_limits_leave_room_for_any_real_index(local):
    assert index_copy._LONGEST_ROW.keys() == {"index.parquet", "lengths.arrow"}
    meta = json.loads((local.folder / "dataset.json").read_text())
    assert meta["lengths"]["num_bytes"] < index_copy._SMALLEST_LIMIT
