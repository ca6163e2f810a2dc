"""The node cache: a fixed share of the shards, each fetched once, checked, within its limit whatever happens."""

import contextlib
import errno
import logging
import multiprocessing
import os
import random
import signal
import stat
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from tests.making import make_dataset
from tests.s3 import BUCKET, upload_folder
from whisper_shard.config.stream import StreamConfig
from whisper_shard.dataset.index import open_dataset
from whisper_shard.dataset.reader import RecordReader
from whisper_shard.dataset.sources import cache as cache_module
from whisper_shard.dataset.sources.cache import CacheSource, NodeCache, check_room, choose_shards
from whisper_shard.dataset.sources.open import check_sources, open_source, open_sources
from whisper_shard.errors import ConfigError, EnvironmentFault
from whisper_shard.storage.atomic import sha256_of_file

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """Forty shards of two utterances."""
    folder = tmp_path_factory.mktemp("data") / "train"
    return make_dataset(folder, [0.1 + 0.01 * (i % 7) for i in range(80)], per_shard=2)


@pytest.fixture
def remote(s3, local, request):
    url = f"s3://{BUCKET}/cached/{local.index_sha256[:8]}"
    upload_folder(local.folder, url)
    dataset = open_dataset(url)
    s3.reset_counts()
    return dataset


def read_all(dataset, source):
    """Read an epoch; return the bytes of all utterances."""
    reader = RecordReader(dataset, source)
    return [bytes(reader.read(row).audio) for row in range(dataset.num_utterances)]


def size_of(dataset):
    return sum(shard.num_bytes for shard in dataset.shards)


def stored(cache):
    """Count each file once, also one that gets its final name meanwhile."""
    sizes = {}
    for path in cache.root.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            state = path.stat()
            if stat.S_ISREG(state.st_mode):
                sizes[state.st_ino] = state.st_size
    return sum(sizes.values())


def everything(tmp_path):
    return NodeCache(folder=tmp_path / "cache", max_bytes=10**9)


def test_the_second_epoch_needs_no_network_where_all_fits(s3, remote, local, tmp_path):
    source = CacheSource(remote, open_source(remote), everything(tmp_path))
    expected = read_all(local, open_source(local))
    assert read_all(remote, source) == expected
    source.wait()
    s3.reset_counts()
    assert read_all(remote, source) == expected
    assert all(source.is_local(shard) for shard in range(40))
    assert s3.requests == []
    source.close()
    again = open_source(remote, cache=everything(tmp_path))  # the next run on this machine
    assert read_all(remote, again) == expected
    assert s3.requests == []
    assert again.counts.gets == 0


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.9])
def test_the_share_that_is_cached_is_that_of_the_limit(s3, remote, tmp_path, share):
    cache = NodeCache(folder=tmp_path / "cache", max_bytes=round(share * size_of(remote)))
    source = CacheSource(remote, open_source(remote), cache)
    source.wait()
    assert stored(cache) <= cache.max_bytes
    s3.reset_counts()
    read_all(remote, source)
    saved = 1 - s3.bytes_sent / sum(read_bytes(remote))
    assert abs(saved - share) < 0.03  # a shard is 2.5 % of this dataset
    assert s3.num_gets() == 2 * (40 - len(choose_shards(remote, cache.max_bytes)))


def read_bytes(dataset):
    """Bytes that each utterance's read takes."""
    index = RecordReader(dataset, open_source(dataset)).index
    for row in range(dataset.num_utterances):
        _, place = index.find(row)
        yield place.json_offset + place.json_bytes - place.audio_offset + 512


def test_the_choice_is_stable_and_grows_with_the_limit(local):
    small, large = choose_shards(local, size_of(local) // 4), choose_shards(local, size_of(local) // 2)
    assert large[: len(small)] == small or set(small) <= set(large)
    assert choose_shards(local, size_of(local) // 4) == small
    assert choose_shards(local, 0) == choose_shards(local, -5) == ()
    assert sorted(choose_shards(local, size_of(local))) == list(range(40))
    assert small != tuple(range(len(small)))  # by hash, not the first ones


def test_processes_of_a_machine_fetch_each_shard_once(s3, remote, tmp_path):
    context = multiprocessing.get_context("spawn")
    with context.Pool(3) as pool:
        pool.starmap(_fill, [(str(remote.location), tmp_path)] * 3)
    assert s3.num_gets("shards/") == 40
    assert s3.bytes_sent >= size_of(remote)
    for shard in remote.shards:
        assert sha256_of_file(everything(tmp_path).folder_of(remote) / shard.name) == shard.sha256


def _fill(url, tmp_path):
    dataset = open_dataset(url)
    source = CacheSource(dataset, open_source(dataset), everything(tmp_path))
    source.wait()
    source.close()


def test_reads_do_not_wait_for_the_cache(s3, remote, local, tmp_path):
    s3.delay_seconds = 0.3
    source = CacheSource(remote, open_source(remote), everything(tmp_path))
    began = time.monotonic()
    source.read(39, 0, 512)
    assert time.monotonic() - began < 3
    assert sum(source.is_local(shard) for shard in range(40)) < 10
    source.close()


def test_a_shard_with_wrong_bytes_is_not_kept(s3, remote, tmp_path, caplog):
    s3.inject("corrupt", part="000007.tar", times=1)
    source = CacheSource(remote, open_source(remote), everything(tmp_path))
    source.wait()
    assert [shard for shard in range(40) if not source.is_local(shard)] == [7]
    assert "000007.tar: has sha256" in caplog.text
    assert "it is not cached" in caplog.text
    again = CacheSource(remote, open_source(remote), everything(tmp_path))
    again.wait()
    assert again.is_local(7)


def test_a_shard_from_before_the_machine_was_started_is_checked_again(s3, remote, tmp_path):
    cache = everything(tmp_path)
    CacheSource(remote, open_source(remote), cache).wait()
    sound, spoilt = (cache.folder_of(remote) / remote.shards[shard].name for shard in (3, 4))
    content = bytearray(spoilt.read_bytes())
    content[5000] ^= 1
    spoilt.write_bytes(content)
    for path in (sound, spoilt):
        os.utime(path, (1e9, 1e9))
    s3.reset_counts()
    source = CacheSource(remote, open_source(remote), cache)
    assert not source.is_local(3)
    source.wait()
    assert all(source.is_local(shard) for shard in range(40))
    assert s3.num_gets() == s3.num_gets("000004.tar") == 1
    assert sha256_of_file(spoilt) == remote.shards[4].sha256


def test_a_cache_that_is_removed_while_in_use(s3, remote, local, tmp_path, caplog):
    cache = everything(tmp_path)
    source = CacheSource(remote, open_source(remote), cache)
    source.wait()
    for path in (cache.folder_of(remote) / "shards").iterdir():
        path.unlink()
    assert read_all(remote, source) == read_all(local, open_source(local))
    assert "shard is missing" in caplog.text


def test_other_datasets_count_and_are_left_alone(s3, remote, tmp_path, caplog):
    cache = NodeCache(folder=tmp_path / "cache", max_bytes=size_of(remote) // 2)
    foreign = cache.root / "0123" / "shards/000000.tar"
    foreign.parent.mkdir(parents=True)
    foreign.write_bytes(bytes(size_of(remote) // 4))
    source = CacheSource(remote, open_source(remote), cache)
    source.wait()
    assert foreign.exists()
    assert size_of(remote) * 0.4 < stored(cache) <= cache.max_bytes
    foreign.write_bytes(bytes(size_of(remote)))
    with caplog.at_level(logging.WARNING):
        check_room(remote, cache)
    assert "leaves no room for a shard" in caplog.text
    assert choose_shards(remote, cache.max_bytes - cache.count_others(remote)) == ()


def test_two_datasets_that_fill_at_the_same_time_keep_the_limit(s3, remote, local, tmp_path, caplog):
    cache = NodeCache(folder=tmp_path / "cache", max_bytes=size_of(remote))
    index = replace(remote.description.index, sha256="1")
    twin = replace(remote, description=replace(remote.description, index=index))
    sources = [CacheSource(dataset, open_source(dataset), cache) for dataset in (remote, twin)]
    for source in sources:
        source._start_filling()
    while any(source._filler.is_alive() for source in sources):
        assert stored(cache) <= cache.max_bytes
    assert stored(cache) >= 0.9 * cache.max_bytes
    assert "bytes are taken; remove what is not needed; what is not yet in the cache is read from s3://" in caplog.text


def test_a_lower_limit_removes_shards(s3, remote, tmp_path):
    cache = everything(tmp_path)
    CacheSource(remote, open_source(remote), cache).wait()
    lower = replace(cache, max_bytes=size_of(remote) // 3)
    check_room(remote, lower)
    assert stored(lower) <= lower.max_bytes
    kept = {path.name for path in lower.folder_of(remote).rglob("*.tar")}
    assert kept >= {f"{shard:06d}.tar" for shard in choose_shards(remote, lower.max_bytes)[:-1]}
    s3.reset_counts()
    CacheSource(remote, open_source(remote), lower).wait()
    assert s3.num_gets() <= 1


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_full_disk_stops_the_cache_and_not_the_reading(s3, remote, local, tmp_path, caplog, monkeypatch, number):
    calls = []

    def fallocate(descriptor, offset, num_bytes):
        calls.append(num_bytes)
        if len(calls) > 5:
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "posix_fallocate", fallocate)
    cache = everything(tmp_path)
    source = CacheSource(remote, open_source(remote), cache)
    source.wait()
    assert len(calls) == 6
    assert read_all(remote, source) == read_all(local, open_source(local))
    (record,) = [record for record in caplog.records if record.name == cache_module.__name__]
    assert f"cache: cannot write: {os.strerror(number)}; " in record.getMessage()
    assert "what is not yet in the cache is read from s3://" in record.getMessage()
    assert stored(cache) == sum(map(int, calls[:5]))


def test_a_full_disk_is_known_before_the_work_begins(s3, remote, tmp_path, monkeypatch):
    status = os.statvfs(tmp_path)
    few = os.statvfs_result([*status[:3], 1, 1, *status[5:10]])
    monkeypatch.setattr(os, "statvfs", lambda path: few)
    config = StreamConfig(cache=str(tmp_path / "cache"), cache_gb=1.0)
    with pytest.raises(EnvironmentFault, match=r"cache: no space for the cache: 0\.0 GB are wanted.*lower --cache-gb"):
        check_sources([remote], config)
    check_sources([remote], replace(config, cache=""))


def test_a_folder_that_cannot_be_made(s3, remote, tmp_path):
    (tmp_path / "file").touch()
    cache = NodeCache(folder=tmp_path / "file", max_bytes=10**9)
    with pytest.raises(EnvironmentFault, match=r"file: cannot write: Not a directory"):
        CacheSource(remote, open_source(remote), cache)
    with pytest.raises(EnvironmentFault, match=r"file: cannot write: Not a directory"):
        check_room(remote, cache)


def test_a_cache_in_a_bucket(s3, remote):
    with pytest.raises(ConfigError, match=r"--cache s3://corpora/cache: only a local path can be used here, not a URL"):
        open_sources(StreamConfig(cache="s3://corpora/cache"))


def test_a_network_that_fails_leaves_a_cache_that_goes_on_later(s3, remote, tmp_path, caplog):
    poor = open_dataset(str(remote.location), storage=replace(remote.storage, retry_budget_seconds=0.1))
    s3.inject("status", part="000010.tar")
    CacheSource(poor, open_source(poor), everything(tmp_path)).wait()
    assert "the cache is not filled any further" in caplog.text
    s3.heal()
    source = CacheSource(remote, open_source(remote), everything(tmp_path))
    source.wait()
    assert all(source.is_local(shard) for shard in range(40))
    assert not list(tmp_path.rglob("*.part"))


def _kill_while_filling(s3, remote, tmp_path, seed):
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from tests.dataset.sources.test_cache import _fill\n"
        "print('ready', flush=True)\n_fill(sys.argv[1], Path(sys.argv[2]))\n"
    )
    command = [sys.executable, "-c", code, str(remote.location), str(tmp_path)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert child.stdout.readline() == b"ready\n"
    time.sleep(random.Random(seed).uniform(0.0, 1.0))
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    for path in everything(tmp_path).root.rglob("*.tar"):  # what has its name is whole
        assert sha256_of_file(path) == remote.shards[int(path.stem)].sha256


def _check_kills(s3, remote, local, tmp_path, kills):
    s3.delay_seconds = 0.02
    for seed in range(kills):
        _kill_while_filling(s3, remote, tmp_path, seed)
    source = CacheSource(remote, open_source(remote), everything(tmp_path))
    source.wait()
    assert all(source.is_local(shard) for shard in range(40))
    assert stored(everything(tmp_path)) == size_of(remote)
    assert read_all(remote, source) == read_all(local, open_source(local))


@pytest.mark.slow
def test_killed_processes_leave_nothing_but_whole_shards(s3, remote, local, tmp_path):
    _check_kills(s3, remote, local, tmp_path, kills=2)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_many_killed_processes_leave_nothing_but_whole_shards(s3, remote, local, tmp_path):
    _check_kills(s3, remote, local, tmp_path, kills=25)
