"""Whose folder it is: one training at a time, the same settings and data when it goes on."""

import dataclasses
import json
import multiprocessing
import os
import shutil
import signal

import pytest
import torch

from tests.making import make_dataset
from tests.train.running import of_kind, tiny_config
from whisper_shard.config.settings import list_settings, replace_settings
from whisper_shard.config.train import TrainConfig
from whisper_shard.dataset.index import open_dataset
from whisper_shard.errors import ConfigError, StateError
from whisper_shard.train.events import AlreadyOver, Resumed, Stepped
from whisper_shard.train.loop import train_model
from whisper_shard.train.ranks import Ranks
from whisper_shard.train.run.folder import (
    BEFORE_THEY_EXISTED,
    FREE_SETTINGS,
    LENGTH_SETTINGS,
    RunFolder,
    claim_run,
    sole_trainer,
)


def test_settings_are_written_down(finished):
    run, config, _, _ = finished
    written = json.loads((run / "train.json").read_text())
    assert written["settings"]["lr"] == config.optimizer.lr
    assert written["settings"]["augment"][0]["kind"] == "AddGaussianNoise"
    assert written["versions"]["torch"] == torch.__version__.split("+")[0] or "+" in written["versions"]["torch"]


def test_finished_run_answers_at_once(finished, task):
    run, config, _, report = finished
    events = []
    again = train_model(task, run, config, events.append)
    assert again == report
    assert events == [AlreadyOver(run=str(run))]


def test_settings_of_speed_may_change_others_may_not(finished, task):
    run, config, _, report = finished
    assert (
        train_model(task, run, replace_settings(config, {"micro_batch": 3, "workers": 1, "save_minutes": 1.0}))
        == report
    )
    with pytest.raises(StateError, match=r"this run began with lr = 0.003, now it is 0.1; resume with the same"):
        train_model(task, run, replace_settings(config, {"lr": 0.1}))
    with pytest.raises(StateError, match=r"already holds a run; choose a new folder, or omit --no-resume"):
        train_model(task, run, replace_settings(config, {"resume": False}))


def test_all_settings_that_differ_are_named_at_once(finished, task):
    run, config, _, _ = finished
    message = (
        r"began with lr = 0.003, now it is 0.1; label_smoothing = .*, now it is 0.2; resume with the same, or choose"
    )
    with pytest.raises(StateError, match=message):
        train_model(task, run, replace_settings(config, {"lr": 0.1, "label_smoothing": 0.2, "workers": 1}))


def test_free_settings_exist():
    assert set(list_settings(TrainConfig)) >= FREE_SETTINGS | LENGTH_SETTINGS | BEFORE_THEY_EXISTED.keys()


def copy_run(run, copy, change):
    """Copy a run whose settings are written down otherwise."""
    shutil.copytree(run, copy)
    written = json.loads((copy / "train.json").read_text())
    change(written["settings"])
    (copy / "train.json").write_text(json.dumps(written))
    return copy


def test_how_often_windows_are_compared_may_change_where_nothing_follows_from_it(finished, task, tmp_path):
    run, config, _, report = finished
    rarely = replace_settings(config, {"watch_every": 7})
    assert train_model(task, run, rarely) == report
    raising = copy_run(run, tmp_path / "run", lambda settings: settings.update(raise_full_share=True))
    with pytest.raises(StateError, match=r"this run began with watch_every = 50, now it is 7; resume with the same"):
        train_model(task, raising, replace_settings(rarely, {"raise_full_share": True}))


def test_a_run_begun_before_a_setting_existed_goes_on_as_it_was(finished, task, tmp_path):
    run, config, _, report = finished
    old = copy_run(run, tmp_path / "run", lambda settings: [settings.pop(name) for name in BEFORE_THEY_EXISTED])
    with pytest.raises(StateError, match=r"this run began with prompts = 1.0, now it is 0.5; resume with the same"):
        train_model(task, old, config)
    assert train_model(task, old, replace_settings(config, {"prompts": 1.0, "watch_every": 0})) == report
    dataset, evaluation = open_dataset(task / "train"), open_dataset(task / "eval")
    prompting = replace_settings(config, {"prompts": 1.0})
    assert claim_run(RunFolder(path=old), prompting, [dataset], evaluation, write=False) == ["watch_every = 50, was 0"]
    raising = replace_settings(prompting, {"raise_full_share": True})
    with pytest.raises(StateError, match=r"watch_every = 0, now it is 50; raise_full_share = False, now it is True"):
        train_model(task, old, raising)


@pytest.mark.slow
def test_a_finished_run_goes_on_to_more_steps_if_asked(task, tmp_path):
    run, config = tmp_path / "run", tiny_config(task, max_steps=2)
    train_model(task, run, config)
    longer = replace_settings(config, {"max_steps": 5, "save_every": 1})
    with pytest.raises(StateError, match=r"began with max_steps = 2, now it is 5; .*, use --extend to make more steps"):
        train_model(task, run, longer)
    events = []
    longer = replace_settings(longer, {"extend": True})
    assert train_model(task, run, longer, events.append).steps == 5
    (resumed,) = of_kind(events, Resumed)
    assert (resumed.step, set(resumed.changes)) == (2, {"max_steps = 5, was 2", "save_every = 1, was 2"})
    assert [event.step for event in of_kind(events, Stepped)] == [3, 4, 5]
    assert all(event.lr > 0 for event in of_kind(events, Stepped)), "on the longer schedule"
    again = []
    train_model(task, run, longer, again.append)
    assert again == [AlreadyOver(run=str(run))]
    with pytest.raises(StateError, match=r"began with max_steps = 5, now it is 3; resume with the same"):
        train_model(task, run, replace_settings(longer, {"max_steps": 3}))


@pytest.mark.slow
def test_a_run_that_stopped_early_goes_on_if_asked(task, tmp_path):
    run, config = tmp_path / "run", tiny_config(task, lr=1e-30, patience=2, epochs=5)
    assert train_model(task, run, config).stopped == "early"
    fewer = replace_settings(config, {"max_steps": 3, "extend": True})
    with pytest.raises(StateError, match=r"the run has made 4 steps already, and is to end after 3; raise --epochs or"):
        train_model(task, run, fewer)
    longer = replace_settings(config, {"epochs": 6, "extend": True})
    assert train_model(task, run, longer).steps > 4


def test_finished_run_without_checkpoints_is_still_that_run(finished, task, tmp_path):
    run, config, _, report = finished
    shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints", "snapshots"))
    with pytest.raises(StateError, match=r"this run began with lr = 0.003, now it is 0.1; resume with the same"):
        train_model(task, tmp_path / "run", replace_settings(config, {"lr": 0.1}))
    with pytest.raises(StateError, match=r"already holds a run; choose a new folder, or omit --no-resume"):
        train_model(task, tmp_path / "run", replace_settings(config, {"resume": False}))
    assert json.loads((tmp_path / "run" / "train.json").read_text())["settings"]["lr"] == 0.003
    assert train_model(task, tmp_path / "run", config) == report


def test_other_data_in_the_same_run_is_refused(finished, task, tmp_path):
    run, config, _, _ = finished
    make_dataset(tmp_path / "train", [1.0] * 12, seed=77)
    with pytest.raises(StateError, match="this run began with training data = '"):
        train_model(tmp_path / "train", run, replace_settings(config, {"eval": str(task / "eval")}))


def test_what_a_killed_process_left_is_swept(tmp_path):
    run = RunFolder(path=tmp_path)
    leftovers = [tmp_path / "report.json.tmp.7", run.checkpoints / "step-00000002.tmp.7" / "model.safetensors"]
    kept = [tmp_path / "metrics.jsonl", run.checkpoints / "step-00000002"]
    for path in (*leftovers, *kept):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    with sole_trainer(run, Ranks()):
        assert not any(path.exists() for path in leftovers)
        assert all(path.exists() for path in kept)


def hold(folder, pipe):
    with sole_trainer(RunFolder(path=folder), Ranks()):
        pipe.send("held")
        signal.pause()


@pytest.fixture
def holder(tmp_path):
    """Another process that trains into a folder, as far as its lock can tell."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=hold, args=(tmp_path / "run", sender))
    process.start()
    assert receiver.recv() == "held"
    yield process
    process.kill()
    process.join()


def test_second_training_into_a_folder_is_refused_until_the_first_is_dead(task, tmp_path, holder):
    run, config = tmp_path / "run", tiny_config(task, max_steps=1)
    message = rf"run: process {holder.pid} is training into it right now; wait until it ends, or choose another run"
    with pytest.raises(StateError, match=message):
        train_model(task, run, config)
    assert {path.name for path in run.iterdir()} == {".lock"}, "nothing was written"
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    assert train_model(task, run, config).steps == 1


def test_other_ranks_leave_the_lock_to_the_first(tmp_path):
    folder = RunFolder(path=tmp_path / "run")
    with sole_trainer(folder, Ranks()), sole_trainer(folder, dataclasses.replace(Ranks(), rank=1, world=2)):
        assert folder.lock.read_text() == str(os.getpid())
    assert folder.lock.read_text() == ""


def test_run_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "run").write_text("")
    folder = RunFolder(path=tmp_path / "run")
    message = "run: is a file, or lies below one; the run must be a folder"
    with pytest.raises(ConfigError, match=message), sole_trainer(folder, Ranks()):
        pass
