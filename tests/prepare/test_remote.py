"""Outputs in a bucket: the same bytes as on disk, whatever machine goes on."""

import os
import random
import shutil
import subprocess
import time

import pytest

from tests.prepare.corpora import (
    QUICK,
    fingerprint,
    make_corpus,
    prepare,
    start_driver,
    totals_of,
    write_csv,
)
from tests.s3 import BUCKET, READER_KEY, READER_SECRET, environment, upload_folder
from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.dataset.verify import Fault, verify_dataset
from whisper_shard.errors import ConfigError, EnvironmentFault, StateError
from whisper_shard.prepare.events import Note, PlanMade, ShardFinished
from whisper_shard.prepare.run import prepare_corpus
from whisper_shard.storage.lease import hold_lease
from whisper_shard.storage.location import parse_location
from whisper_shard.storage.object_store import ObjectStore
from whisper_shard.storage.stores import StorageConfig
from whisper_shard.storage.work_folder import work_folder

SETTINGS = {"shard_mb": 1}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("corpus"), 120, extra=[("broken.wav", b"RIFF of nothing")])


@pytest.fixture(scope="module")
def local(corpus, tmp_path_factory):
    """The files of a run into a local folder, by sha256."""
    out = tmp_path_factory.mktemp("local") / "out"
    prepare(corpus, out, **SETTINGS)
    files = fingerprint(out)
    del files[".prepare/lock"]
    assert len([name for name in files if name.startswith("train/shards")]) > 3
    return files


@pytest.fixture
def url(s3, request):
    return f"s3://{BUCKET}/prepared/{request.node.name}"


def objects_in(url):
    location = parse_location(url)
    return {info.location.key.removeprefix(f"{location.key}/"): info for info in ObjectStore().list(location)}


def fetch(url, folder):
    shutil.rmtree(folder, ignore_errors=True)
    for name, info in objects_in(url).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(ObjectStore().get(info.location, max_bytes=1 << 30))
    return folder


def assert_same(url, local, tmp_path):
    assert fingerprint(fetch(url, tmp_path / "fetched")) == local


def notes_of_changes(events):
    notes = [event.message for event in events if isinstance(event, Note)]
    return [note for note in notes if "prepared again" in note]


def lose_machine(url):
    shutil.rmtree(work_folder("prepare", parse_location(url)), ignore_errors=True)


def kill_after(corpus, url, seconds):
    """SIGKILL a run and remove its work folder; return whether it had come to its end."""
    process = start_driver(corpus, url, **SETTINGS)
    try:
        process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
    lose_machine(url)
    assert process.returncode in (0, -9)
    return process.returncode == 0


def remove_all(url):
    for info in objects_in(url).values():
        ObjectStore().delete(info.location)


@pytest.mark.slow
def test_every_object_is_that_of_a_local_run(corpus, local, url, tmp_path):
    events = prepare(corpus, url, **SETTINGS)
    assert totals_of(events)["train"].num_utterances == 107
    assert_same(url, local, tmp_path)
    assert not [fault for fault in verify_dataset(f"{url}/train") if isinstance(fault, Fault)]
    assert [path for path in work_folder("prepare", parse_location(url)).rglob("*") if path.is_file()] == [
        work_folder("prepare", parse_location(url)) / ".prepare/lock"
    ]


@pytest.mark.long
def test_a_finished_output_is_left_as_it_is_from_any_machine(corpus, local, url, tmp_path):
    prepare(corpus, url, **SETTINGS)
    lose_machine(url)
    events = prepare(corpus, url, **SETTINGS)
    assert not [event for event in events if isinstance(event, ShardFinished)] and not notes_of_changes(events)
    assert_same(url, local, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1])
def test_killed_at_random_moments_and_resumed_on_other_machines(corpus, local, url, tmp_path, seed):
    kill_and_resume(corpus, local, url, tmp_path, seed=seed, count=3)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_killed_at_20_random_moments(corpus, local, url, tmp_path):
    kill_and_resume(corpus, local, url, tmp_path, seed=2, count=20)


def kill_and_resume(corpus, local, url, tmp_path, *, seed, count):
    draws = random.Random(seed)
    for _ in range(count):
        if kill_after(corpus, url, draws.uniform(1.0, 5.0)):
            remove_all(url)
    prepare(corpus, url, **SETTINGS)
    assert_same(url, local, tmp_path)


@pytest.mark.long
def test_finished_shards_are_not_prepared_again_on_another_machine(corpus, local, url, tmp_path):
    for event in (run := prepare_corpus(corpus, url, PrepareConfig(**QUICK, **SETTINGS))):
        if isinstance(event, ShardFinished):
            break
    run.close()
    assert "train/dataset.json" not in objects_in(url) and ".prepare/lease.json" not in objects_in(url)
    lose_machine(url)
    events = prepare(corpus, url, **SETTINGS)
    assert next(event for event in events if isinstance(event, PlanMade)).num_shards_done >= 1
    assert_same(url, local, tmp_path)


@pytest.mark.slow
def test_the_server_dies_and_comes_back(corpus, local, s3_server, url, tmp_path):
    is_killed = False
    for event in prepare_corpus(corpus, url, PrepareConfig(**QUICK, **SETTINGS)):
        if isinstance(event, ShardFinished) and not is_killed:
            s3_server.kill()
            is_killed = True
            time.sleep(1.0)  # the workers go on meanwhile
            s3_server.start()
    assert is_killed
    assert_same(url, local, tmp_path)


@pytest.mark.slow
def test_a_network_that_stays_away_stops_the_run_which_then_resumes(corpus, local, s3, url, tmp_path):
    fault = s3.inject("status", method="PUT", part="train/shards/000002", status=503, code="SlowDown")
    storage = StorageConfig(retry_budget_seconds=0.3)
    with pytest.raises(
        EnvironmentFault, match=rf"{url}/train/shards/000002.tar: .*run the same command again to resume"
    ):
        list(prepare_corpus(corpus, url, PrepareConfig(**QUICK, **SETTINGS), storage=storage))
    assert fault.times < 1_000_000
    s3.heal()
    prepare(corpus, url, **SETTINGS)
    assert_same(url, local, tmp_path)


@pytest.mark.long
def test_a_tar_that_is_missing_is_prepared_again(corpus, local, url, tmp_path):
    prepare(corpus, url, **SETTINGS)
    ObjectStore().delete(parse_location(f"{url}/train/shards/000001.tar"))
    events = prepare(corpus, url, **SETTINGS)
    (note,) = notes_of_changes(events)
    assert note.startswith("train shard 000001 is prepared again: 000001.tar has 0 bytes, the receipt says ")
    assert len([event for event in events if isinstance(event, ShardFinished)]) == 1
    assert_same(url, local, tmp_path)


@pytest.mark.long
def test_a_damaged_receipt_is_replaced(corpus, local, url, tmp_path):
    prepare(corpus, url, **SETTINGS)
    ObjectStore().put(parse_location(f"{url}/.prepare/receipts/train/000001.json"), b"{")
    prepare(corpus, url, **SETTINGS)
    assert_same(url, local, tmp_path)


@pytest.mark.long
def test_rebuild_removes_dataset_json_first_and_prepares_all_again(corpus, local, url, tmp_path, monkeypatch):
    prepare(corpus, url, **SETTINGS, min_seconds=0.5)
    with pytest.raises(StateError, match=rf"{url}: belongs to another configuration: min_seconds was 0.5, is 1.0"):
        prepare(corpus, url, **SETTINGS)
    deleted, delete = [], ObjectStore.delete
    monkeypatch.setattr(ObjectStore, "delete", lambda *args: (deleted.append(args[1].name), delete(*args)))
    prepare(corpus, url, **SETTINGS, rebuild=True)
    assert deleted[:2] == ["dataset.json"] * 2 and "plan.json" in deleted
    assert_same(url, local, tmp_path)


@pytest.mark.slow
def test_a_second_process_is_refused(corpus, url):
    place, folder = parse_location(f"{url}/.prepare/lease.json"), parse_location(url)
    with (
        hold_lease(place, ObjectStore(), folder=folder, name="output", doing="preparing"),
        pytest.raises(StateError, match=rf"{url}: process {os.getpid()} of .* is preparing into it right now; wait"),
    ):
        prepare(corpus, url)
    assert not objects_in(url)


def test_datasets_of_others_are_refused(corpus, url, tmp_path):
    (tmp_path / "other/train").mkdir(parents=True)
    (tmp_path / "other/train/dataset.json").write_text("{}")
    upload_folder(tmp_path / "other", url)
    with pytest.raises(StateError, match=rf"{url}: holds train or eval, but not from `prepare`"):
        prepare(corpus, url)
    assert set(objects_in(url)) == {"train/dataset.json"}


def test_places_that_cannot_be_written_are_refused_before_any_work(corpus, s3, monkeypatch):
    with pytest.raises(ConfigError, match=r"^s3://nowhere/out/.prepare/lease.json: there is no bucket 'nowhere' there"):
        prepare(corpus, "s3://nowhere/out")
    with pytest.raises(ConfigError, match=r"^OUT https://example.org/out: https can only be read; give a bucket"):
        prepare(corpus, "https://example.org/out")
    for name, value in environment(s3.endpoint, key=READER_KEY, secret=READER_SECRET).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(
        ConfigError, match=r"lease.json: access denied; ask the owner of the bucket for the right to write"
    ):
        prepare(corpus, f"s3://{BUCKET}/denied")


@pytest.mark.long
def test_a_shard_without_utterances_has_no_tar(url, tmp_path):
    corpus = make_corpus(tmp_path / "corpus", 2)
    rows = [("audios/0.wav", "some words"), *[(f"none{i}.wav", "some words") for i in range(70)]]
    corpus = write_csv(tmp_path / "corpus/rows.csv", rows)
    prepare(corpus, tmp_path / "out", eval_fraction=0.0, max_reject_fraction=1.0)
    prepare(corpus, url, eval_fraction=0.0, max_reject_fraction=1.0)
    expected = fingerprint(tmp_path / "out")
    del expected[".prepare/lock"]
    assert len([name for name in expected if name.endswith(".tar")]) == 1
    assert_same(url, expected, tmp_path)
