"""Shards in a bucket: exactly the bytes asked for, of one version, with one GET."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.making import make_dataset
from tests.s3 import BUCKET, upload_folder
from whisper_shard.dataset.index import open_dataset
from whisper_shard.dataset.reader import RecordReader
from whisper_shard.dataset.sources.object_store import ObjectStoreSource
from whisper_shard.dataset.sources.open import open_source
from whisper_shard.dataset.sources.protocol import SourceCounts
from whisper_shard.errors import DatasetError, EnvironmentFault
from whisper_shard.storage.object_store import ObjectStore
from whisper_shard.storage.stores import StorageConfig

pytestmark = pytest.mark.timeout(60)
QUICK = StorageConfig(request_timeout_seconds=1.0, retry_budget_seconds=1.0)


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data") / "train", [0.3, 0.2, 0.4, 0.25, 0.3], per_shard=3)


@pytest.fixture
def remote(s3, local, request):
    url = f"s3://{BUCKET}/{request.node.name.partition('[')[0]}"
    upload_folder(local.folder, url)
    dataset = open_dataset(url, storage=QUICK)
    s3.reset_counts()
    return dataset


def test_local_files_have_a_source_of_their_own(local):
    assert open_source(local).is_local(0)


def test_a_read_is_one_get(s3, remote, local):
    source = open_source(remote)
    content = local.shard_path(0).read_bytes()
    assert source.read(0, 512, 1000) == content[512:1512]
    assert source.read(0, 0, len(content)) == content
    assert source.read(0, 100, 0) == b""
    assert source.counts == SourceCounts(gets=2, num_bytes=1000 + len(content))
    assert [byte_range for _, _, byte_range in s3.requests] == ["bytes=512-1511", f"bytes=0-{len(content) - 1}"]
    assert not source.is_local(0)
    source.close()


def test_records_are_those_of_the_disk(s3, remote, local):
    far, near = (RecordReader(dataset, open_source(dataset)) for dataset in (remote, local))
    for row in range(5):
        assert bytes(far.read(row).audio) == bytes(near.read(row).audio)
        assert bytes(far.read(row).json) == bytes(near.read(row).json)
        assert far.read(row).path.startswith("s3://")


def test_many_threads(s3, remote, local):
    source, content = ObjectStoreSource(remote), local.shard_path(0).read_bytes()
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda offset: source.read(0, offset, 300), range(0, 9600, 100)))
    assert found == [content[offset : offset + 300] for offset in range(0, 9600, 100)]
    assert source.counts == SourceCounts(gets=96, num_bytes=96 * 300)


def test_requests_that_fail_are_counted_too(s3, remote):
    source = ObjectStoreSource(open_dataset(str(remote.location)))
    s3.reset_counts()
    s3.inject("status", times=2)
    source.read(0, 0, 100)
    assert source.counts.gets == s3.num_gets() == 3


def test_a_missing_shard(s3, remote):
    ObjectStore().delete(remote.shard_location(1))
    with pytest.raises(DatasetError, match=rf"^{remote.location}/shards/000001\.tar: shard is missing; restore it or"):
        ObjectStoreSource(remote).read(1, 0, 10)


@pytest.mark.parametrize("change", [-512, 512])
def test_a_shard_of_another_length(s3, remote, local, change):
    content = local.shard_path(0).read_bytes()
    ObjectStore().put(remote.shard_location(0), (content + bytes(512))[: len(content) + change])
    message = rf"000000\.tar: has {len(content) + change} bytes, dataset.json says {len(content)}; restore the shard"
    with pytest.raises(DatasetError, match=message):
        ObjectStoreSource(remote).read(0, 0, 10)


def test_a_shard_that_is_replaced_while_in_use(s3, remote, local):
    source = ObjectStoreSource(remote)
    source.read(0, 0, 1000)
    ObjectStore().put(remote.shard_location(0), bytes(local.shards[0].num_bytes))
    with pytest.raises(DatasetError, match=r"000000\.tar: was replaced while it was in use; run the same command"):
        source.read(0, 0, 1000)


def test_wrong_bytes_of_the_right_length_are_found(s3, remote):
    s3.inject("corrupt", after_bytes=600)
    reader = RecordReader(remote, ObjectStoreSource(remote))
    with pytest.raises(DatasetError, match=r"000000\.tar: utterance utt00000: tar header at"):
        reader.read(0)


def test_a_network_that_is_gone(s3, remote):
    s3.refuse()
    with pytest.raises(EnvironmentFault, match=r"000000\.tar: the server refuses connections; .*; given up after \d s"):
        ObjectStoreSource(remote).read(0, 0, 10)
