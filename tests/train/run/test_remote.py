"""Runs in a bucket: as on disk, whatever machine they go on on."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.s3 import BUCKET
from tests.train.running import Kill, _Killer, final_weights, lasting_metrics, of_kind, tiny_config
from whisper_shard.errors import ConfigError, EnvironmentFault, StateError
from whisper_shard.storage.lease import LEASE_SECONDS
from whisper_shard.storage.location import parse_location
from whisper_shard.storage.object_store import ObjectStore
from whisper_shard.storage.stores import StorageConfig
from whisper_shard.storage.work_folder import work_folder
from whisper_shard.train.events import AlreadyOver, Stepped
from whisper_shard.train.loop import train_model
from whisper_shard.train.run.remote import RemoteRun

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def local(task, tmp_path_factory):
    """The same run in a local folder."""
    run = tmp_path_factory.mktemp("local") / "run"
    train_model(task, run, tiny_config(task))
    return run


@pytest.fixture
def url(s3, request):
    return f"s3://{BUCKET}/runs/{request.node.name}"


def names_in(url):
    location = parse_location(url)
    return {info.location.key.removeprefix(f"{location.key}/") for info in ObjectStore().list(location)}


def fetch(url, folder):
    """Download a run, to compare it with a local one."""
    for name in names_in(url):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(ObjectStore().get(parse_location(url).join(name), max_bytes=1 << 30))
    return folder


def assert_same_run(url, local, tmp_path):
    run = fetch(url, tmp_path / "fetched")
    assert lasting_metrics(run) == lasting_metrics(local)
    ours, theirs = final_weights(run), final_weights(local)
    assert ours.keys() == theirs.keys() and all(bool((ours[name] == theirs[name]).all()) for name in ours)
    kept = {path.relative_to(local).as_posix() for path in local.rglob("*") if path.is_file()}
    assert names_in(url) == kept - {".lock"}


def work(task, url, step, seconds):
    """Train in this process, and be killed; run by the tests in a process of its own."""
    kill = Kill(step=int(step), seconds=float(seconds))
    train_model(Path(task), url, tiny_config(Path(task)), _Killer(kill))


def train_and_die(task, url, kill):
    code = "import sys; from tests.train.run.test_remote import work; work(*sys.argv[1:])"
    arguments = [str(task), url, str(kill.step), str(kill.seconds)]
    ran = subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, timeout=120, capture_output=True)
    assert ran.returncode in (0, -signal.SIGKILL), ran.stderr.decode()
    shutil.rmtree(work_folder("runs", parse_location(url)), ignore_errors=True)  # the machine is lost


@pytest.mark.slow
def test_a_run_in_a_bucket_is_that_of_a_local_folder(task, local, url, tmp_path):
    report = train_model(task, url, tiny_config(task))
    assert report.model == f"{url}/model"
    assert_same_run(url, local, tmp_path)
    shutil.rmtree(work_folder("runs", parse_location(url)))
    events = []
    assert train_model(task, url, tiny_config(task), events.append).wer == report.wer
    assert of_kind(events, AlreadyOver)[0].run == url and not of_kind(events, Stepped)


@pytest.mark.slow
def test_killed_on_one_machine_and_resumed_on_another(task, local, url, tmp_path):
    for kill in (Kill(step=2, seconds=0.05), Kill(step=5)):
        train_and_die(task, url, kill)
    train_model(task, url, tiny_config(task))
    assert_same_run(url, local, tmp_path)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_killed_10_times_at_random_moments(task, local, url, tmp_path):
    rng = np.random.default_rng(3)
    for _ in range(10):
        train_and_die(task, url, Kill(step=int(rng.integers(0, 7)), seconds=float(rng.uniform(0, 0.3))))
    train_model(task, url, tiny_config(task))
    assert_same_run(url, local, tmp_path)


def test_other_settings_are_refused_from_another_machine(task, url):
    train_model(task, url, tiny_config(task, max_steps=2))
    shutil.rmtree(work_folder("runs", parse_location(url)))
    with pytest.raises(StateError, match=rf"{url}: this run began with lr = 0.003, now it is 0.01"):
        train_model(task, url, tiny_config(task, max_steps=2, lr=0.01))


@pytest.mark.slow
def test_a_work_folder_that_is_newer_is_kept_and_one_of_another_run_is_not(task, url, tmp_path):
    train_model(task, url, tiny_config(task, max_steps=2))
    remote = RemoteRun(parse_location(url))
    mark = remote.folder / "checkpoints" / "mark"
    mark.write_text("")
    remote.pull()
    assert mark.exists()
    (remote.folder / "train.json").write_text("{}")
    remote.pull()
    assert not mark.exists() and (remote.folder / "report.json").exists()


@pytest.mark.slow
def test_an_incomplete_checkpoint_is_ignored_and_removed(task, url):
    train_model(task, url, tiny_config(task, max_steps=2))
    remote = RemoteRun(parse_location(url))
    orphan = "checkpoints/step-00000099/model.safetensors"
    remote.store.put(remote.location.join(orphan), b"half a checkpoint")
    shutil.rmtree(remote.folder)
    with remote.lease():
        remote.pull()
        assert not (remote.folder / orphan).exists()
    assert orphan not in names_in(url) and "report.json" in names_in(url)


def lease_of(url, **fields):
    content = {"host": "elsewhere", "pid": 1, "time": time.time(), **fields}
    ObjectStore().put(parse_location(url).join("lease.json"), json.dumps(content).encode())


def test_a_second_process_is_refused(url):
    lease_of(url)
    with (
        pytest.raises(StateError, match=rf"{url}: process 1 of elsewhere is training into it right now; wait until"),
        RemoteRun(parse_location(url)).lease(),
    ):
        pass
    assert names_in(url) == {"lease.json"}


@pytest.mark.parametrize("fields", [{"time": time.time() - LEASE_SECONDS - 1}, {"host": os.uname().nodename, "pid": 0}])
def test_the_lease_of_a_process_that_is_gone_is_taken_over(url, fields):
    lease_of(url, **fields)
    remote = RemoteRun(parse_location(url))
    remote.folder.mkdir(parents=True)
    with remote.lease():
        assert names_in(url) == {"lease.json"}
    assert names_in(url) == set()


def test_an_upload_that_fails_stops_the_run_and_says_where_it_is_saved(s3, url):
    remote = RemoteRun(parse_location(url), ObjectStore(StorageConfig(retry_budget_seconds=0.3)))
    remote.folder.mkdir(parents=True)
    (remote.folder / "metrics.jsonl").write_text("{}\n")
    s3.refuse()
    remote.push_later()
    with pytest.raises(
        EnvironmentFault, match=rf"{url}: the run could not be copied there .* it is saved in {remote.folder}"
    ):
        remote.wait()
    s3.heal()
    remote.push_later()
    remote.wait()
    assert names_in(url) == {"metrics.jsonl"}


def test_places_that_cannot_be_written(task, s3):
    with pytest.raises(ConfigError, match=r"RUN https://example.org/run: https can only be read"):
        train_model(task, "https://example.org/run", tiny_config(task))
    with pytest.raises(ConfigError, match=r"s3://nowhere.*bucket"):
        train_model(task, "s3://nowhere/run", tiny_config(task))
