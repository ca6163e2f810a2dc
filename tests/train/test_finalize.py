"""The weights a run ends with."""

import os
import signal

import pytest
import torch
from safetensors.torch import load_file

from tests.making import make_waveform
from tests.train.running import final_weights, of_kind, tiny_config
from whisper_shard.errors import StopRequested
from whisper_shard.train.events import Stepped, Warned
from whisper_shard.train.loop import train_model
from whisper_shard.train.run.checkpoint import checkpoint_path, list_checkpoints, read_tensors
from whisper_shard.train.run.metrics import read_metrics


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
    message = "no evaluation was better than the 100.00% WER of the model before training"
    assert any(message in event.message for event in of_kind(events, Warned))

    before = load_file(task / "tiny" / "model.safetensors")
    after = final_weights(tmp_path / "run")
    assert all(torch.equal(after[name], before[name]) for name in before if name in after)


def test_low_rank_updates_train_and_are_merged(task, tmp_path):
    pytest.importorskip("peft")
    config = tiny_config(task, lora_rank=2, epochs=1, eval_every=1, average=2, interpolate=True)
    report = train_model(task, tmp_path / "run", config)
    assert {"average of 2", "0.5 base"} < set(report.candidates)
    assert not any("lora" in name for name in final_weights(tmp_path / "run"))
    assert report.steps == 2


@pytest.mark.slow
def test_end_that_was_killed_leaves_no_second_lines(task, tmp_path):
    run, config = tmp_path / "run", tiny_config(task, lr=1e-30, max_steps=2)
    train_model(task, run, config)
    before = [(line["kind"], line["step"]) for line in read_metrics(run)]
    (run / "report.json").unlink()
    train_model(task, run, config)
    after = [(line["kind"], line["step"]) for line in read_metrics(run) if line["kind"] != "resume"]
    assert after == before
    assert {"warning", "final"} <= {kind for kind, _ in after}


def newest_average(run):
    steps = list_checkpoints(run / "checkpoints")
    return read_tensors(checkpoint_path(run / "checkpoints", steps[-1]), "average")


@pytest.mark.slow
def test_stopped_run_ends_with_the_average_of_one_left_alone(task, tmp_path):
    config = tiny_config(task, ema=0.8, max_steps=4)

    def stop(event):
        if isinstance(event, Stepped) and event.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(StopRequested):
        train_model(task, tmp_path / "stopped", config, stop)
    reports = [train_model(task, tmp_path / name, config) for name in ("stopped", "alone")]
    assert reports[0].candidates == reports[1].candidates
    assert set(reports[0].candidates) == {"best", "ema 0.8"}
    ours, theirs = newest_average(tmp_path / "stopped"), newest_average(tmp_path / "alone")
    live = final_weights(tmp_path / "alone")
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    assert any(not torch.equal(tensor, live[name]) for name, tensor in theirs.items() if name in live)
