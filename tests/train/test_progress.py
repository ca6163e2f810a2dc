"""Metrics, events and counters of steps and evaluations."""

import math

import pytest
import torch

from tests.making import make_dataset
from tests.train.running import of_kind, tiny_config
from whisper_shard.errors import TrainingError
from whisper_shard.train import build
from whisper_shard.train.events import Evaluated, Skipped, Stepped, Warned
from whisper_shard.train.gradient_sums import GradientSums
from whisper_shard.train.loop import train_model
from whisper_shard.train.run.metrics import read_metrics


def test_metrics_hold_the_same_numbers(finished):
    run, _, events, _ = finished
    lines = read_metrics(run)
    trained = [line for line in lines if line["kind"] == "train"]
    assert [line["loss"] for line in trained] == [event.loss for event in of_kind(events, Stepped)]
    assert trained[-1]["padded_seconds"] == pytest.approx(6 * 6.0), "the last fifth is in full windows"
    assert trained[0]["padded_seconds"] < 6 * 6.0 * 0.8
    evaluations = [line for line in lines if line["kind"] == "eval"]
    assert [line["wer"] for line in evaluations] == [event.wer for event in of_kind(events, Evaluated)][
        : len(evaluations)
    ]
    assert {line["window"] for line in lines if line["kind"] == "final"} == {"full", "short"}


def test_evaluations_tell_how_sure_their_wer_is(finished):
    run, _, _, report = finished
    evaluations = [line for line in read_metrics(run) if line["kind"] in ("eval", "final")]
    assert all(0 <= line["wer_low"] <= line["wer"] <= line["wer_high"] for line in evaluations)
    full = next(line for line in evaluations if line["kind"] == "final" and line["window"] == "full")
    assert (full["wer_low"], full["wer_high"]) == report.wer_interval


def test_tensorboard_has_the_curves(finished):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(finished[0] / "tensorboard"))
    board.Reload()
    assert {"train/loss", "train/lr", "eval/wer", "eval/wer_low", "epoch/utterances"} <= set(board.Tags()["scalars"])
    assert [event.step for event in board.Scalars("train/loss")] == [1, 2, 3, 4, 5, 6]


def test_losses_that_are_not_finite_are_named_and_end_the_run(task, tmp_path):
    events = []
    config = tiny_config(task, lr=1e30, warmup=0.0, max_nonfinite=2, max_grad_norm=0.0)
    message = r"step \d: the (loss|gradient) is (nan|inf) with utterances utt\d+, .*--max-nonfinite is 2: look at"
    with pytest.raises(TrainingError, match=message):
        train_model(task, tmp_path / "run", config, events.append)
    skipped = of_kind(events, Skipped)
    assert len(skipped) == 2
    assert len(skipped[0].keys) == 6
    assert next(line["keys"] for line in read_metrics(tmp_path / "run") if line["kind"] == "skip") == list(
        skipped[0].keys
    )


def test_gradients_that_no_scale_makes_finite_end_the_run(monkeypatch, task, tmp_path):
    def spoil(sums):
        sums.parameters[0].grad.fill_(math.nan)

    monkeypatch.setattr(GradientSums, "finish", spoil)
    monkeypatch.setattr(build, "make_scaler", lambda _machine: torch.amp.GradScaler("cpu", init_scale=4.0))
    events = []
    config = tiny_config(task, max_steps=6, max_nonfinite=2, eval_every=99)
    with pytest.raises(TrainingError, match=r"step 4: the gradient is nan .* utt.*; skipped steps so far: 2"):
        train_model(task, tmp_path / "run", config, events.append)
    reasons = [event.reason for event in of_kind(events, Skipped)]
    assert reasons == ["fp16 overflow", "fp16 overflow", "gradient", "gradient"], "the scale goes 2, 1, 0.5, 0.25"


@pytest.mark.slow
def test_packed_windows_with_too_much_text_are_left_out(task, tiny_folder, tmp_path):
    seconds = [1.0] * 8 + [20.0] * 2
    make_dataset(tmp_path / "train", seconds, text="xyzzy! " * 20, seed=3)
    events = []
    changes = {"window": "packed", "batch_size": 1, "max_steps": 3, "save_every": 99, "eval": str(task / "eval")}
    config = tiny_config(task, model=str(tiny_folder), **changes)
    report = train_model(tmp_path / "train", tmp_path / "run", config, events.append)
    assert report.steps == 3
    skipped = [line for line in read_metrics(tmp_path / "run") if line["kind"] == "skip"]
    assert skipped[0]["reason"] == "text too long"
    # A step of this batch size that loses its only window has nothing left to learn from.
    assert {line["reason"] for line in skipped} == {"text too long", "no utterance left"}
    message = next(event.message for event in of_kind(events, Warned) if "packed" in event.message)
    assert "1 packed windows have more text than the decoder has room for and were not trained on" in message
    assert skipped[0]["keys"][0] in message


def test_metrics_say_what_was_read(finished):
    run, _, events, _ = finished
    steps = [event for event in events if isinstance(event, Stepped)]
    lines = [line for line in read_metrics(run) if line["kind"] == "train"]
    assert [(line["reads"], line["mb_read"]) for line in lines] == [(event.reads, event.mb_read) for event in steps]
    assert sum(event.reads for event in steps) >= sum(event.utterances_per_second > 0 for event in steps) > 0
    assert sum(event.mb_read for event in steps) > 0.5
