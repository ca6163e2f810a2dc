"""Further evaluation data: scored at each evaluation and at the end, without any say in the result."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch

from tests.making import make_dataset
from tests.train.running import final_weights, lasting_metrics, of_kind, tiny_config
from whisper_shard.errors import StopRequested, TrainingError
from whisper_shard.storage.location import parse_location
from whisper_shard.train.data import name_datasets, open_corpora
from whisper_shard.train.events import Evaluated, Evaluating
from whisper_shard.train.loop import train_model
from whisper_shard.train.run.folder import RunFolder, read_report
from whisper_shard.train.run.metrics import read_metrics
from whisper_shard.train.trackers import list_metrics


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """General speech, and noise in which nothing is said."""
    folder = tmp_path_factory.mktemp("others")
    make_dataset(folder / "general" / "eval", [0.7, 1.1, 1.9], seed=11, prefix="general")
    noise = {"record": {"text": ""}, "meta": {"empty_texts": "keep"}}
    make_dataset(folder / "noise", [0.5, 1.0], seed=12, prefix="noise", **noise)
    return str(folder / "general"), str(folder / "noise")


@pytest.fixture(scope="module")
def trained(task, others, tmp_path_factory):
    run, events = tmp_path_factory.mktemp("also") / "run", []
    report = train_model(task, run, tiny_config(task, also_eval=others, tensorboard=True), events.append)
    return run, events, report


@pytest.mark.slow
def test_each_is_scored_at_each_evaluation_and_at_the_end(trained):
    run, events, report = trained
    evaluated = of_kind(events, Evaluated)
    for name in ("general/eval", "noise"):
        assert [event.step for event in evaluated if event.dataset == name and not event.is_final] == [0, 2, 4, 6]
        (final,) = [event for event in evaluated if event.dataset == name and event.is_final]
        assert report.also[name][1] == final.wer
        before = next(event for event in evaluated if event.dataset == name)
        assert report.also[name][0] == before.wer
    assert {event.num_silent for event in evaluated if event.dataset == "noise"} == {2}
    assert all(event.num_invented <= 2 for event in evaluated)
    assert read_report(RunFolder(path=run)) == report


def test_they_change_no_bit_of_the_result(trained, task, tmp_path):
    run, _, report = trained
    alone = train_model(task, tmp_path / "run", tiny_config(task))
    ours, theirs = final_weights(run), final_weights(tmp_path / "run")
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    assert (report.wer, report.best_step, alone.also) == (alone.wer, alone.best_step, {})


def test_they_have_lines_charts_and_a_place_on_the_card(trained):
    run, events, report = trained
    lines = [line for line in read_metrics(run) if line["kind"] == "also"]
    assert [(line["step"], line["dataset"]) for line in lines[:2]] == [(0, "general/eval"), (0, "noise")]
    assert {line.get("num_silent") for line in lines if line["dataset"] == "noise"} == {2}
    page = (run / "run.html").read_text()
    assert "WER in 30 s windows on general/eval, which decides nothing" in page
    before, after = report.also["general/eval"]
    card = (run / "model" / "README.md").read_text()
    assert f"| on general/eval, in 30 s windows; before: {before:.2%} | {after:.2%} |" in card
    assert "| noise | 2 |" in card and str(run.parent) not in card
    first = next(event for event in events if isinstance(event, Evaluated) and event.dataset == "noise")
    assert {name.split("/")[0] for name, _ in list_metrics(first)} == {"eval-noise"}


@pytest.mark.slow
def test_a_run_that_is_stopped_between_two_of_them_ends_like_another(trained, task, others, tmp_path):
    config = tiny_config(task, also_eval=others)
    whole, _, _ = trained
    begun = []

    def stop_at_the_noise(event):
        if isinstance(event, Evaluating) and (event.num_done, event.num_utterances) == (0, 2):
            begun.append(event)
            if len(begun) == 2:
                os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(StopRequested, match="stopped by SIGTERM while evaluating"):
        train_model(task, tmp_path / "run", config, stop_at_the_noise)
    assert [line["step"] for line in read_metrics(tmp_path / "run") if line["kind"] == "eval"] == [0]
    train_model(task, tmp_path / "run", config)
    assert lasting_metrics(tmp_path / "run") == lasting_metrics(whole)


def test_they_may_share_nothing_with_training_data_either(task, tmp_path):
    make_dataset(tmp_path / "known", [1.0, 1.2], seed=5)
    with pytest.raises(TrainingError, match=r"known: 2 of 2 evaluation utterances are in .* too"):
        open_corpora(task, tiny_config(task, also_eval=(str(tmp_path / "known"),)))
    make_dataset(tmp_path / "empty", [])
    with pytest.raises(TrainingError, match="empty: the evaluation set is empty"):
        open_corpora(task, tiny_config(task, also_eval=(str(tmp_path / "empty"),)))


def test_names_are_short_and_differ():
    places = [parse_location(Path(path)) for path in ("/a/calls/eval", "/b/noise", "/c/other")]
    assert name_datasets(places) == ["calls/eval", "noise", "other"]
    twins = [parse_location(Path(path)) for path in ("/a/noise", "/b/noise")]
    assert name_datasets(twins) == ["/a/noise", "/b/noise"]


def test_a_report_from_before_there_were_any_is_read(trained, tmp_path):
    run, _, report = trained
    value = json.loads((run / "report.json").read_text())
    del value["also"]
    (tmp_path / "report.json").write_text(json.dumps(value))
    found = read_report(RunFolder(path=tmp_path))
    assert (found.wer, found.also) == (report.wer, {})
