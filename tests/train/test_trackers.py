"""Trackers get the numbers of a run, each under one run however often it is resumed, and never stop it."""

import json
import os
import shutil
import sqlite3
import sys

import pytest

from tests.s3 import BUCKET
from tests.train.running import of_kind, tiny_config
from whisper_shard.errors import ConfigError, StopRequested
from whisper_shard.storage.location import parse_location
from whisper_shard.storage.object_store import ObjectStore
from whisper_shard.storage.work_folder import work_folder
from whisper_shard.train import trackers
from whisper_shard.train.events import Evaluated, Saved, Stepped, Warned
from whisper_shard.train.loop import train_model


@pytest.fixture
def opened(monkeypatch):
    """A tracker that keeps what it gets."""
    kept = {"runs": [], "metrics": [], "closed": []}

    def open_list(run):
        kept["runs"].append(run)
        return trackers.Tracker(
            log=lambda metrics, step: kept["metrics"].append((step, metrics)), close=kept["closed"].append
        )

    monkeypatch.setitem(trackers.OPENERS, "wandb", open_list)
    return kept


def test_a_tracker_gets_what_the_events_say(task, tmp_path, opened):
    events = []
    train_model(task, tmp_path / "run", tiny_config(task, tracker="wandb", max_steps=2), events.append)
    losses = [(step, metrics["train/loss"]) for step, metrics in opened["metrics"] if "train/loss" in metrics]
    assert losses == [(event.step, event.loss) for event in of_kind(events, Stepped)]
    wers = [(step, metrics["eval/wer"]) for step, metrics in opened["metrics"] if "eval/wer" in metrics]
    assert wers == [(event.step, event.wer) for event in of_kind(events, Evaluated) if not event.is_final]
    assert {"final-full/wer", "final-short/wer"} <= {name for _, metrics in opened["metrics"] for name in metrics}
    (delivered,) = [(step, metrics) for step, metrics in opened["metrics"] if "epoch/utterances" in metrics]
    assert delivered == (
        2,
        {"epoch/utterances": 12.0, "epoch/audio_seconds": pytest.approx(17.5, abs=3), "epoch/skipped": 0.0},
    )
    assert opened["closed"] == [True]
    assert opened["runs"][0].settings["lr"] == 3e-3


@pytest.mark.slow
def test_a_resumed_run_goes_on_in_the_same_place(task, tmp_path, opened):
    def stop(event):
        if isinstance(event, Saved) and event.step == 2:
            raise StopRequested("enough", exit_code=75)

    config = tiny_config(task, tracker="wandb", max_steps=4)
    with pytest.raises(StopRequested, match="enough"):
        train_model(task, tmp_path / "run", config, stop)
    train_model(task, tmp_path / "run", config)
    first, second = opened["runs"]
    assert first.id == second.id == json.loads((tmp_path / "run" / "tracker.json").read_text())["id"]
    assert opened["closed"] == [False, True]


@pytest.mark.slow
def test_a_run_in_a_bucket_goes_on_in_the_same_place_from_another_machine(task, s3, opened):
    url = f"s3://{BUCKET}/tracked/run"

    def stop(event):
        if isinstance(event, Saved) and event.step == 2:
            raise StopRequested("enough", exit_code=75)

    config = tiny_config(task, tracker="wandb", max_steps=4)
    with pytest.raises(StopRequested, match="enough"):
        train_model(task, url, config, stop)
    shutil.rmtree(work_folder("runs", parse_location(url)))  # the machine is lost
    train_model(task, url, config)
    first, second = opened["runs"]
    kept = json.loads(ObjectStore().get(parse_location(url).join("tracker.json"), max_bytes=1000))
    assert first.id == second.id == kept["id"]


def test_a_tracker_that_fails_never_stops_the_run(task, tmp_path, monkeypatch):
    def fail(*_arguments):
        raise OSError("no route to host")

    monkeypatch.setitem(trackers.OPENERS, "mlflow", lambda run: trackers.Tracker(log=fail, close=fail))
    events = []
    report = train_model(task, tmp_path / "run", tiny_config(task, tracker="mlflow", max_steps=2), events.append)
    messages = [event.message for event in of_kind(events, Warned) if "mlflow" in event.message]
    assert messages == [
        "mlflow failed, and gets no more numbers of this run: no route to host",
        "mlflow failed at the end of the run: no route to host",
    ]
    assert report.steps == 2


def test_a_tracker_that_cannot_be_opened(task, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(
        ConfigError, match=r"--tracker trackio: it is not installed: pip install 'whisper-shard\[trackio\]'"
    ):
        train_model(task, tmp_path / "run", tiny_config(task, tracker="trackio"))

    def refuse(_run):
        raise ValueError("no API key\nmore")

    monkeypatch.setitem(trackers.OPENERS, "wandb", refuse)
    with pytest.raises(ConfigError, match=r"--tracker wandb: it cannot be opened: no API key$"):
        train_model(task, tmp_path / "run", tiny_config(task, tracker="wandb"))


@pytest.mark.slow
def test_a_damaged_identity_is_named(task, tmp_path, opened):
    run = tmp_path / "run"
    config = tiny_config(task, tracker="wandb", max_steps=2)
    train_model(task, run, config)
    for content in ("", "[1]", '{"tracker": "wandb"}'):
        (run / "tracker.json").write_text(content)
        with pytest.raises(ConfigError, match=r"run/tracker\.json: is damaged; remove it"):
            train_model(task, run, tiny_config(task, tracker="wandb", max_steps=3, extend=True))


def test_wandb_offline(task, tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is not installed (it is an extra)")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    train_model(task, tmp_path / "run", tiny_config(task, tracker="wandb", max_steps=2))
    identity = json.loads((tmp_path / "run" / "tracker.json").read_text())["id"]
    (log,) = (tmp_path / "run" / "wandb").glob(f"offline-run-*/run-{identity}.wandb")
    content = log.read_bytes()
    assert all(name in content for name in (b"train/loss", b"eval/wer", b"final-full/wer", b"lora_rank"))


def test_mlflow_in_a_file(task, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed (it is an extra)")
    pytest.importorskip("sqlalchemy", reason="mlflow's store in a file needs it")
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    events, config = [], tiny_config(task, tracker="mlflow", max_steps=2)
    train_model(task, tmp_path / "run", config, events.append)
    (run,) = mlflow.search_runs(experiment_names=["whisper-shard"], output_format="list")
    assert run.info.status == "FINISHED" and run.data.params["lr"] == "0.003"
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "train/loss")
    assert [(one.step, one.value) for one in history] == [(one.step, one.loss) for one in of_kind(events, Stepped)]


def test_trackio_on_this_machine(task, tmp_path):
    pytest.importorskip("trackio", reason="trackio is not installed (it is an extra)")
    from subprocess import run

    words = ["train", str(task), str(tmp_path / "run"), "--model", str(task / "tiny"), "--tracker", "trackio"]
    words += ["--batch-size", "6", "--workers", "0", "--max-steps", "2", "--log-every", "1", "--max-new-tokens", "4"]
    environment = os.environ | {"TRACKIO_DIR": str(tmp_path / "trackio"), "HF_HUB_OFFLINE": "1"}
    ran = run([sys.executable, "-m", "whisper_shard", *words], env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    (file,) = (tmp_path / "trackio").glob("whisper-shard*.db")
    with sqlite3.connect(file) as database:
        rows = [(step, json.loads(metrics)) for step, metrics in database.execute("SELECT step, metrics FROM metrics")]
    assert [step for step, metrics in rows if "train/loss" in metrics] == [1, 2]
