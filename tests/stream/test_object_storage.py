"""Batches from a bucket: those of the local disk, to the bit, whatever the network does; or one clear error."""

import dataclasses
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.making import make_dataset
from tests.s3 import BUCKET, restart_forkserver, upload_folder
from tests.stream.test_loader import digests, utterances
from whisper_shard.config.stream import StreamConfig
from whisper_shard.dataset.index import open_dataset
from whisper_shard.errors import DatasetError, EnvironmentFault
from whisper_shard.storage.object_store import ObjectStore
from whisper_shard.storage.stores import StorageConfig
from whisper_shard.stream.loader import open_evaluation, open_loader

pytestmark = [pytest.mark.timeout(120), pytest.mark.filterwarnings("ignore:This DataLoader will create")]
CONFIG = StreamConfig(batch_size=12, length_buckets=4, workers=0, augment=({"kind": "noise", "p": 0.5},))
PATIENT = StorageConfig(request_timeout_seconds=2.0, retry_budget_seconds=30.0)
QUICK = StorageConfig(request_timeout_seconds=0.5, retry_budget_seconds=1.0)


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    rng = np.random.default_rng(0)
    seconds = [s for _ in range(5) for s in sorted(rng.uniform(0.05, 0.6, 40))]
    return make_dataset(tmp_path_factory.mktemp("sorted") / "set", seconds, per_shard=40, speakers=3)


@pytest.fixture
def remote(s3, local):
    url = f"s3://{BUCKET}/streamed/{local.index_sha256[:8]}"
    upload_folder(local.folder, url)
    dataset = open_dataset(url, storage=PATIENT)
    s3.reset_counts()
    return dataset


@pytest.mark.slow
@pytest.mark.parametrize(("world", "workers"), [(1, 0), (2, 0), (1, 2), (2, 2)])
def test_an_epoch_is_that_of_the_disk_and_each_byte_comes_once(s3, remote, local, world, workers):
    config = dataclasses.replace(CONFIG, workers=workers)
    restart_forkserver()
    members = sum(shard.num_bytes - 1024 for shard in local.shards)  # all of a tar but its end mark
    gets = 0
    for rank in range(world):
        loader = open_loader(remote, config, epochs=1, rank=rank, world=world)
        assert digests(loader) == digests(open_loader(local, CONFIG, epochs=1, rank=rank, world=world))
        gets += loader.counts.gets
    assert s3.num_gets("shards/") == gets
    assert s3.bytes_sent <= 1.02 * members


def test_a_resumed_epoch_fetches_what_is_left(s3, remote, local):
    first = open_loader(remote, CONFIG, epochs=1)
    batches = [batch for batch, _ in zip(first, range(12), strict=False)]
    first.close()
    time.sleep(0.2)  # reads under way
    s3.reset_counts()
    state = first.state_after(batches[-1])
    assert digests(open_loader(remote, CONFIG, state=state, epochs=1)) == digests(
        open_loader(local, CONFIG, state=state, epochs=1)
    )
    assert s3.bytes_sent < 0.6 * sum(shard.num_bytes for shard in local.shards)


def test_an_evaluation_is_that_of_the_disk(s3, remote, local):
    far, near = (utterances(open_evaluation(dataset, batch_size=7)) for dataset in (remote, local))
    assert far == near


FAULTS = {
    "reset": {"kind": "reset", "after_bytes": 30_000, "times": 3},
    "cut": {"kind": "cut", "after_bytes": 10_000, "times": 3},
    "stall": {"kind": "stall", "after_bytes": 10_000, "times": 2},
    "silence": {"kind": "stall", "after_bytes": 0, "times": 2},
    "drip": {"kind": "drip", "after_bytes": 5_000, "times": 2},
    "500": {"kind": "status", "status": 500, "times": 5},
    "slow down": {"kind": "status", "status": 503, "code": "SlowDown", "headers": {"Retry-After": "1"}, "times": 5},
    "wrong bytes": {"kind": "corrupt", "after_bytes": 2_000, "times": 2},
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_faults_that_pass_change_no_batch(s3, remote, local, fault):
    injected = s3.inject(**fault, part="shards/")
    assert digests(open_loader(remote, CONFIG, epochs=1)) == digests(open_loader(local, CONFIG, epochs=1))
    assert injected.times == 0


@pytest.mark.long
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_faults_that_pass_change_no_batch_of_loader_processes(s3, remote, local, fault):
    restart_forkserver()
    s3.inject(**fault, part="shards/")
    config = dataclasses.replace(CONFIG, workers=2)
    assert digests(open_loader(remote, config, epochs=1)) == digests(open_loader(local, CONFIG, epochs=1))


def test_a_slow_network_changes_no_batch(s3, remote, local):
    s3.delay_seconds = 0.1
    assert digests(open_loader(remote, CONFIG, epochs=1)) == digests(open_loader(local, CONFIG, epochs=1))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"kind": "cut", "after_bytes": 100}, "the connection breaks; given up after"),
        ({"kind": "stall"}, "the server does not answer in time; given up after"),
        ({"kind": "status", "status": 503, "code": "SlowDown"}, "the server asks to slow down; given up after"),
    ],
    ids=["cut", "stall", "slow down"],
)
def test_faults_that_stay_are_one_error(s3, remote, fault, message, workers):
    restart_forkserver()
    s3.inject(**fault, part="shards/")
    poor = open_dataset(str(remote.location), storage=QUICK)
    began = time.monotonic()
    with pytest.raises(EnvironmentFault, match=rf"^s3://\S+shards/\d+\.tar: {message}") as caught:
        list(open_loader(poor, dataclasses.replace(CONFIG, workers=workers), epochs=1))
    assert "\n" not in str(caught.value)
    assert time.monotonic() - began < 40


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["refuse", "DNS"])
def test_a_network_that_is_gone_is_one_error(s3, remote, fault):
    storage = QUICK
    if fault == "refuse":
        s3.refuse()
    else:
        storage = dataclasses.replace(QUICK, endpoint="http://no-such-host.invalid:80")
    gone = dataclasses.replace(remote, storage=storage)
    # A busy machine may take longer to find that there is no such name than a request may last.
    reasons = {"refuse": "refuses connections", "DNS": "name of the server cannot be resolved|not answer in time"}
    with pytest.raises(EnvironmentFault, match=reasons[fault]):
        list(open_loader(gone, CONFIG, epochs=1))


def test_wrong_bytes_that_stay_are_an_error_or_a_row_of_weight_0(s3, remote, local):
    s3.inject("corrupt", after_bytes=2_000, part="000002.tar")
    with pytest.raises(DatasetError, match=r"000002\.tar: utterance \w+: .*restore the shard or prepare it again"):
        list(open_loader(remote, CONFIG, epochs=1))
    config = dataclasses.replace(CONFIG, bad_record="skip", max_bad=1000, augment=())
    sound = {key: samples for _, _, key, samples in utterances(open_loader(local, config, epochs=1))}
    num_faults = 0
    for batch in open_loader(remote, config, epochs=1):
        for key, row, n, weight in zip(batch.keys, batch.waveforms, batch.num_samples, batch.weights, strict=True):
            num_faults += bool(key and not weight)  # the last batch is filled up with rows without a key
            assert not weight or row[:n].numpy().tobytes() == sound[key]
    assert 0 < num_faults <= 40


def test_a_shard_that_is_replaced_in_mid_epoch_is_an_error(s3, remote, local):
    restart_forkserver()
    content = local.shard_path(3).read_bytes()
    location = remote.shard_location(3)
    loader = open_loader(remote, dataclasses.replace(CONFIG, read_ahead_mb=0), epochs=1)
    with pytest.raises(DatasetError, match=r"000003\.tar: was replaced while it was in use"):
        for step, _ in enumerate(loader):
            if step == 3:
                ObjectStore().put(location, content[:1000] + b"x" + content[1001:])
    ObjectStore().put(location, content)


def test_a_server_that_is_down_for_a_while_is_waited_for(s3, remote, local):
    expected = digests(open_loader(local, CONFIG, epochs=1))
    loader = open_loader(remote, CONFIG, epochs=1)
    found = []
    for batch in loader:
        found += digests([batch])
        if len(found) == 1:
            s3.refuse()
            threading.Timer(2.0, s3.listen).start()
    assert found == expected


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_server_that_is_down_for_a_minute_is_waited_for(s3, local):
    url = f"s3://{BUCKET}/streamed/minute"
    upload_folder(local.folder, url)
    dataset = open_dataset(url)  # as users have it: 120 s of patience
    s3.refuse()
    threading.Timer(60.0, s3.listen).start()
    began = time.monotonic()
    assert digests(open_loader(dataset, CONFIG, epochs=1)) == digests(open_loader(local, CONFIG, epochs=1))
    assert 55 < time.monotonic() - began < 100


@pytest.mark.slow
def test_a_server_that_is_killed_and_started_again_changes_no_batch(s3, s3_server, remote, local):
    expected = digests(open_loader(local, CONFIG, epochs=1))
    killed = threading.Event()
    s3.inject("run", times=1, part="shards/", action=lambda: (s3_server.kill(), killed.set()))
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(lambda: digests(open_loader(remote, CONFIG, epochs=1)))
        assert killed.wait(10)
        s3_server.start()
        assert found.result() == expected


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_with_a_cache_the_second_epoch_needs_no_network(s3, remote, local, tmp_path, workers, caplog):
    restart_forkserver()
    config = dataclasses.replace(CONFIG, workers=workers, cache=str(tmp_path / "cache"), cache_gb=1.0)
    expected = digests(open_loader(local, CONFIG, epochs=3))
    with caplog.at_level(logging.WARNING):
        assert digests(open_loader(remote, config, epochs=1)) == expected[: len(expected) // 3]
        deadline = time.monotonic() + 30
        while len(list((tmp_path / "cache").rglob("*.tar"))) < 5 and time.monotonic() < deadline:
            list(open_loader(remote, config, epochs=1))
    s3.reset_counts()
    loader = open_loader(remote, config, epochs=3)
    assert digests(loader) == expected
    assert s3.num_gets() == 0
    assert not caplog.records
