"""The loop: what it leaves behind, when it stops, and what it refuses."""

import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.making import make_dataset, make_waveform
from tests.train.running import final_weights, of_kind, tiny_config
from whisper_shard.errors import ConfigError, TrainingError
from whisper_shard.train import build
from whisper_shard.train import step as step_module
from whisper_shard.train.events import Delivered, Evaluated, Saved, Skipped, Started, Stepped, Warned
from whisper_shard.train.loop import train_model
from whisper_shard.train.run.metrics import read_metrics
from whisper_shard.train.step import TrainStep


def test_events_tell_the_story(finished):
    _, _, events, report = finished
    started = of_kind(events, Started)[0]
    assert (started.total_steps, started.steps_per_epoch, started.train_utterances) == (6, 2, 12)
    assert started.precision == "bfloat16"
    assert [event.step for event in of_kind(events, Stepped)] == [1, 2, 3, 4, 5, 6]
    assert [event.lr for event in of_kind(events, Stepped)][:2] == [0.0, pytest.approx(3e-3)]
    assert [event.step for event in of_kind(events, Evaluated)][:4] == [0, 2, 4, 6]
    assert {event.step for event in of_kind(events, Saved)} == {0, 2, 4, 6}
    assert all(event.is_complete and event.utterances == 12 for event in of_kind(events, Delivered))
    assert len(of_kind(events, Delivered)) == 3
    assert report.steps == 6


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


def test_result_loads_as_a_pipeline_and_scores_as_reported(finished):
    from transformers import pipeline

    run, _, _, report = finished
    recognizer = pipeline("automatic-speech-recognition", model=report.model)
    heard = recognizer(make_waveform(1.0), generate_kwargs={"max_new_tokens": 4})
    assert isinstance(heard["text"], str)
    assert report.wer == next(line for line in read_metrics(run) if line["kind"] == "final")["wer"]
    assert report.wer == min(report.candidates.values())
    assert {"best", "average of 2", "ema 0.9", "0.25 base", "0.5 base"} <= set(report.candidates)


def test_best_weights_come_back_when_training_does_harm(task, tmp_path):
    events = []
    config = tiny_config(task, lr=3.0, warmup=0.0, epochs=1, max_nonfinite=100)
    report = train_model(task, tmp_path / "run", config, events.append)
    assert report.best_step == 0
    assert (
        "no evaluation was better than the 100.00% WER of the model before training"
        in of_kind(events, Warned)[0].message
    )

    before = load_file(task / "tiny" / "model.safetensors")
    after = final_weights(tmp_path / "run")
    assert all(torch.equal(after[name], before[name]) for name in before if name in after)


def test_stops_early_when_nothing_gets_better(task, tmp_path):
    events = []
    report = train_model(task, tmp_path / "run", tiny_config(task, lr=1e-30, patience=2, save_every=99), events.append)
    assert (report.stopped, report.steps) == ("early", 4)
    assert of_kind(events, Saved)[-1].step == 4, "a stop while the result is scored loses no step"


def test_evaluates_and_saves_when_asked(task, tmp_path):
    events = []
    config = tiny_config(task, eval_every=3, save_every=4, progress_every=2, lr=1e-30, max_steps=7)
    train_model(task, tmp_path / "run", config, events.append)
    evaluated = of_kind(events, Evaluated)
    assert [event.step for event in evaluated if event.window == "full"] == [0, 3, 6, 7, 7]
    assert [event.step for event in evaluated if event.window == "borrowed"] == [2, 4], "6 is measured"
    assert [event.step for event in evaluated if event.window == "short"] == [7]
    assert [event.step for event in of_kind(events, Saved)] == [0, 4, 7]


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
    def spoil(parameters, _ranks):
        parameters[0].grad.fill_(math.nan)

    monkeypatch.setattr(step_module, "sum_gradients", spoil)
    monkeypatch.setattr(build, "make_scaler", lambda _machine: torch.amp.GradScaler("cpu", init_scale=4.0))
    events = []
    config = tiny_config(task, max_steps=6, max_nonfinite=2, eval_every=99)
    with pytest.raises(TrainingError, match=r"step 4: the gradient is nan .* utt.*; skipped steps so far: 2"):
        train_model(task, tmp_path / "run", config, events.append)
    reasons = [event.reason for event in of_kind(events, Skipped)]
    assert reasons == ["fp16 overflow", "fp16 overflow", "gradient", "gradient"], "the scale goes 2, 1, 0.5, 0.25"


def test_model_with_damaged_weights_is_refused(task, tmp_path):
    model = Path(shutil.copytree(task / "tiny", tmp_path / "damaged"))
    weights = load_file(model / "model.safetensors")
    weights["model.encoder.conv1.weight"][0] = math.nan
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    message = "damaged: before any training its loss on the evaluation data is nan: its weights are damaged; take"
    with pytest.raises(TrainingError, match=message):
        train_model(task, tmp_path / "run", tiny_config(task, model=str(model)))


def test_evaluation_data_without_a_word_is_refused(task, tmp_path):
    make_dataset(tmp_path / "eval", [1.0, 1.5], text="...", seed=9, prefix="eval")
    message = r"eval: its texts have no word once punctuation is dropped, such as eval00000; WER would mean nothing"
    with pytest.raises(TrainingError, match=message):
        train_model(task, tmp_path / "run", tiny_config(task, eval=str(tmp_path / "eval")))


def test_skipped_steps_do_not_move_the_schedule(task, tmp_path):
    events = []
    config = tiny_config(task, lr=1e30, warmup=0.0, max_nonfinite=99, max_grad_norm=0.0, max_steps=4)
    train_model(task, tmp_path / "run", config, events.append)
    rates = [event.lr for event in of_kind(events, Stepped)]
    assert len(of_kind(events, Skipped)) == 3
    assert rates[1] == rates[2] == rates[3] < rates[0], "one update was made, the other three steps were skipped"


class Arrived:
    """Stands in for the CUDA event behind the copy of the numbers."""

    def synchronize(self):
        pass


def rates_of_a_run(monkeypatch, task, run, *, deferred, **changes):
    """The learning rate of each step; deferred: results are read one step later, as on a GPU."""
    rates = []
    make_step, send = TrainStep.__call__, step_module._send_to_host

    def step_and_note(self, batch, *, lr, **rest):
        rates.append(lr)
        return make_step(self, batch, lr=lr, **rest)

    with monkeypatch.context() as patch:
        patch.setattr(TrainStep, "__call__", step_and_note)
        patch.setattr(step_module, "_send_to_host", lambda n: (n.clone(), Arrived()) if deferred else send(n))
        train_model(task, run, tiny_config(task, epochs=99, max_steps=7, eval_every=99, save_every=99, **changes))
    return rates


def test_schedule_does_not_wait_for_numbers_from_the_device(monkeypatch, task, tmp_path):
    at_once = rates_of_a_run(monkeypatch, task, tmp_path / "cpu", deferred=False, log_every=1)
    assert len(set(at_once)) == 7
    for log_every in (1, 3, 99):
        run = tmp_path / f"gpu{log_every}"
        assert rates_of_a_run(monkeypatch, task, run, deferred=True, log_every=log_every) == at_once


def test_low_rank_updates_train_and_are_merged(task, tmp_path):
    pytest.importorskip("peft")
    report = train_model(task, tmp_path / "run", tiny_config(task, lora_rank=2, epochs=1, interpolate=True))
    assert not any("lora" in name for name in final_weights(tmp_path / "run"))
    assert report.steps == 2


def test_packed_windows_train(task, tiny_folder, tmp_path):
    events = []
    train_model(
        task,
        tmp_path / "run",
        tiny_config(task, model=str(tiny_folder), window="packed", batch_size=2, max_steps=2),
        events.append,
    )
    assert of_kind(events, Stepped)[-1].audio_seconds_per_second > 0
    lines = [line for line in read_metrics(tmp_path / "run") if line["kind"] == "train"]
    assert sum(line["audio_seconds"] for line in lines) > 2 * 3.0, "rows hold several utterances"


def test_packed_windows_with_too_much_text_are_left_out(task, tiny_folder, tmp_path):
    seconds = [1.0] * 8 + [20.0] * 2
    make_dataset(tmp_path / "train", seconds, text="xyzzy! " * 20, seed=3)
    events = []
    changes = {"window": "packed", "batch_size": 1, "max_steps": 3, "save_every": 99, "eval": str(task / "eval")}
    config = tiny_config(task, model=str(tiny_folder), **changes)
    report = train_model(tmp_path / "train", tmp_path / "run", config, events.append)
    assert report.steps == 3
    skipped = [line for line in read_metrics(tmp_path / "run") if line["kind"] == "skip"]
    assert skipped
    assert {line["reason"] for line in skipped} == {"text too long"}
    message = next(event.message for event in of_kind(events, Warned) if "packed" in event.message)
    assert "1 packed windows have more text than the decoder has room for and were not trained on" in message
    assert skipped[0]["keys"][0] in message


def test_float16_on_a_cpu_is_refused(task, tmp_path):
    with pytest.raises(ConfigError, match="--precision fp16 does not work on a CPU; use bf16 or fp32"):
        train_model(task, tmp_path / "run", tiny_config(task, precision="fp16"))
