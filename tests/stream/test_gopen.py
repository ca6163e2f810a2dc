"""Plain WebDataset reads tars in object storage."""

import pytest
import torch
import webdataset as wds
from webdataset.gopen import gopen, gopen_schemes

from tests.making import make_dataset
from tests.s3 import BUCKET, upload_folder
from whisper_shard import register_gopen
from whisper_shard.errors import ConfigError, DatasetError, EnvironmentFault
from whisper_shard.storage import object_store
from whisper_shard.storage.location import parse_location
from whisper_shard.storage.object_store import ObjectStore
from whisper_shard.storage.stores import StorageConfig

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def registered(monkeypatch):
    """The schemes of WebDataset are as before afterwards."""
    before = dict(gopen_schemes)
    register_gopen(StorageConfig(request_timeout_seconds=2.0, retry_budget_seconds=2.0))
    yield
    gopen_schemes.clear()
    gopen_schemes.update(before)


@pytest.fixture
def urls(s3, registered, tmp_path):
    dataset = make_dataset(tmp_path / "set", [0.3, 0.2, 0.4, 0.25, 0.3], per_shard=3)
    url = f"s3://{BUCKET}/webdataset/{dataset.index_sha256[:8]}"
    upload_folder(dataset.folder, url)
    s3.reset_counts()
    return [str(dataset.shard_path(shard)) for shard in range(2)], f"{url}/shards/{{000000..000001}}.tar"


def test_the_samples_are_those_of_the_disk(s3, urls):
    paths, url = urls
    near, far = (list(wds.WebDataset(source, shardshuffle=False)) for source in (paths, url))
    assert len(far) == 5
    for one, other in zip(near, far, strict=True):
        assert (one["__key__"], one["npy"], one["json"]) == (other["__key__"], other["npy"], other["json"])
    assert s3.num_gets() == 2


@pytest.mark.slow
def test_loader_processes_read_too(s3, urls):
    _, url = urls
    dataset = wds.WebDataset(url, shardshuffle=False, workersplitter=wds.split_by_worker).to_tuple("__key__")
    loader = torch.utils.data.DataLoader(
        dataset, batch_size=None, num_workers=2, multiprocessing_context="spawn", worker_init_fn=_register
    )
    assert sorted(key for (key,) in loader) == [f"utt{number:05d}" for number in range(5)]


def _register(_worker: int) -> None:
    register_gopen()


@pytest.mark.parametrize("piece", [1000, 16384])
def test_a_tar_of_many_pieces_survives_faults(s3, urls, monkeypatch, piece):
    paths, url = urls
    monkeypatch.setattr(object_store, "_STREAM_BYTES", piece)
    s3.inject("reset", after_bytes=500, times=3)
    with gopen(url.replace("{000000..000001}", "000000")) as file, open(paths[0], "rb") as local:
        assert file.read() == local.read()
    assert s3.num_gets() >= 3


def test_a_tar_that_is_left_in_the_middle_is_closed(s3, urls, monkeypatch):
    _, url = urls
    monkeypatch.setattr(object_store, "_STREAM_BYTES", 1000)
    with gopen(url.replace("{000000..000001}", "000000")) as file:
        assert len(file.read(10)) == 10
    assert s3.num_gets() < 10


@pytest.mark.slow
def test_faults_are_one_line(s3, urls, monkeypatch):
    _, url = urls
    first = url.replace("{000000..000001}", "000000")
    with pytest.raises(FileNotFoundError, match=r"missing\.tar: does not exist"):
        list(wds.WebDataset(first.replace("000000", "missing"), shardshuffle=False))
    with pytest.raises(ConfigError, match=r"000000\.tar: can only be read here; write to a local file"):
        gopen(first, "wb")
    monkeypatch.setattr(object_store, "_STREAM_BYTES", 1000)
    s3.inject("cut", after_bytes=0)
    with pytest.raises(EnvironmentFault, match=r"000000\.tar: the connection breaks; given up"):
        list(wds.WebDataset(first, shardshuffle=False))
    s3.heal()
    with gopen(first) as file, pytest.raises(DatasetError, match=r"000000\.tar: was replaced while it was read"):
        file.read(100)
        ObjectStore().put(parse_location(first), bytes(50_000))
        file.read()


def test_other_schemes_are_left_alone(registered):
    assert gopen_schemes["https"].__name__ == "gopen_curl"
