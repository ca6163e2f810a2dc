"""The loop: what it leaves behind, when it stops, and what it refuses."""

import dataclasses
import json
import math
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.making import WORDS, make_dataset, make_waveform
from tests.train.running import final_weights, lasting_metrics, make_task, tiny_config
from whisper_shard.errors import ConfigError, DatasetError, EnvironmentFault, StateError, StopRequested, TrainingError
from whisper_shard.train import loop
from whisper_shard.train import step as step_module
from whisper_shard.train.checkpoint import checkpoint_path, list_checkpoints, load_checkpoint, load_latest
from whisper_shard.train.corpora import check_labels, open_corpora
from whisper_shard.train.events import (
    Delivered,
    Evaluated,
    Examining,
    Resumed,
    Saved,
    Skipped,
    Started,
    Stepped,
    Warned,
)
from whisper_shard.train.loop import train_model
from whisper_shard.train.metrics import MetricsLog, read_metrics
from whisper_shard.train.runstate import Ledger, digest_ids
from whisper_shard.train.step import Stepper
from whisper_shard.train.tiny import make_tiny_whisper
from whisper_shard.train.tokens import Labeler
from whisper_shard.utterance import SAMPLE_RATE


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return make_task(tmp_path_factory.mktemp("loop"), train=12, evaluation=4)


@pytest.fixture(scope="module")
def finished(task):
    """A run of 6 steps with everything switched on, its events and its report."""
    events = []
    config = tiny_config(
        task, tensorboard=True, average=2, interpolate=True, spec_augment=True, stochastic_depth=0.1,
        label_smoothing=0.1, timestamps=0.5, precision="bf16", full_final=0.2,
    )  # fmt: skip
    report = train_model(task, task / "run", config, events.append)
    return task / "run", config, events, report


def of_kind(events, kind):
    return [event for event in events if isinstance(event, kind)]


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
    assert trained[-1]["padded_seconds"] == pytest.approx(6 * 30.0), "the last fifth is in full windows"
    assert trained[0]["padded_seconds"] < 6 * 30.0 / 2
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
    assert {"best", "average of 2", "0.25 base", "0.5 base"} <= set(report.candidates)


def test_settings_are_written_down(finished):
    run, config, _, _ = finished
    written = json.loads((run / "train.json").read_text())
    assert written["settings"]["lr"] == config.lr
    assert written["settings"]["augment"][0]["kind"] == "AddGaussianNoise"
    assert written["versions"]["torch"] == torch.__version__.split("+")[0] or "+" in written["versions"]["torch"]


def test_finished_run_answers_at_once(finished, task):
    run, config, _, report = finished
    events = []
    again = train_model(task, run, config, events.append)
    assert again == report
    assert events == []


def test_speed_knobs_may_change_others_may_not(finished, task):
    run, config, _, report = finished
    assert train_model(task, run, dataclasses.replace(config, micro_batch=3, workers=1, save_minutes=1.0)) == report
    with pytest.raises(StateError, match=r"this run began with lr = 0.003, now it is 0.1; go on with the same"):
        train_model(task, run, dataclasses.replace(config, lr=0.1))
    with pytest.raises(StateError, match=r"holds a run already; choose a new folder, or leave --no-resume out"):
        train_model(task, run, dataclasses.replace(config, resume=False))


def test_finished_run_without_checkpoints_is_still_that_run(finished, task, tmp_path):
    run, config, _, report = finished
    shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints", "snapshots"))
    with pytest.raises(StateError, match=r"this run began with lr = 0.003, now it is 0.1; go on with the same"):
        train_model(task, tmp_path / "run", dataclasses.replace(config, lr=0.1))
    with pytest.raises(StateError, match=r"holds a run already; choose a new folder, or leave --no-resume out"):
        train_model(task, tmp_path / "run", dataclasses.replace(config, resume=False))
    assert json.loads((tmp_path / "run" / "train.json").read_text())["settings"]["lr"] == 0.003
    assert train_model(task, tmp_path / "run", config) == report


def test_other_data_in_the_same_run_is_refused(finished, task, tmp_path):
    run, config, _, _ = finished
    make_dataset(tmp_path / "train", [1.0] * 12, seed=77)
    with pytest.raises(StateError, match="this run began with training data = '"):
        train_model(tmp_path / "train", run, dataclasses.replace(config, eval=str(task / "eval")))


def test_checkpoint_of_another_model_is_refused(task, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(task / "tiny", model)
    config = tiny_config(task, model=str(model), max_steps=1)
    train_model(task, tmp_path / "run", config)
    (tmp_path / "run" / "report.json").unlink()
    shutil.rmtree(model)
    make_tiny_whisper(model, texts=WORDS, width=32, encoder_layers=1, decoder_layers=1, heads=2, vocabulary=260)
    with pytest.raises(StateError, match=r"step-00000001: the checkpoint is of another model: .* has shape"):
        train_model(task, tmp_path / "run", config)


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
    report = train_model(task, tmp_path / "run", tiny_config(task, lr=1e-30, patience=2))
    assert (report.stopped, report.steps) == ("early", 4)


def test_evaluates_and_saves_when_asked(task, tmp_path):
    events = []
    config = tiny_config(task, eval_every=3, save_every=4, progress_every=2, lr=1e-30, max_steps=7)
    train_model(task, tmp_path / "run", config, events.append)
    evaluated = of_kind(events, Evaluated)
    assert [event.step for event in evaluated if event.window == "full"] == [0, 3, 6, 7, 7]
    assert [event.step for event in evaluated if event.window == "short"] == [2, 4, 6, 7]
    assert [event.step for event in of_kind(events, Saved)] == [0, 4, 7]


def test_each_checkpoint_has_the_best_weights_it_names(task, tmp_path):
    folder = tmp_path / "run" / "checkpoints"
    kept = []

    def look(event):
        if isinstance(event, Saved):
            steps = list_checkpoints(folder)
            best = [load_checkpoint(checkpoint_path(folder, step)).state["run"]["best_step"] for step in steps[-2:]]
            assert set(best) <= set(steps), f"checkpoints {steps} name {best} as best"
            kept.append(steps)

    train_model(task, tmp_path / "run", tiny_config(task, eval_every=3, save_every=1, max_steps=5), look)
    assert kept == [[0], [0, 1], [0, 1, 2], [0, 2, 3], [3, 4], [3, 4, 5]]


def test_what_fits_into_a_pass_is_remembered(monkeypatch, task, tmp_path):
    """Memory runs out at the first pass of the first call only; the second call never tries that much again."""
    sizes, fail = [], [True]
    real = Stepper._pass

    def pass_or_run_out(self, share, micro_batch, number):
        sizes.append(len(micro_batch.rows))
        if fail:
            fail.pop()
            raise torch.OutOfMemoryError("out of memory")
        return real(self, share, micro_batch, number)

    monkeypatch.setattr(Stepper, "_pass", pass_or_run_out)
    config = tiny_config(task, window="full", max_steps=4)

    def stop(event):
        if isinstance(event, Stepped) and event.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(StopRequested, match="stopped by SIGTERM"):
        train_model(task, tmp_path / "run", config, stop)
    assert sizes[0] == 6
    assert set(sizes[1:]) == {3}
    state = load_latest(tmp_path / "run" / "checkpoints", warn=[].append).state
    assert state["pass_limit"] == {"device": "cpu", "utterances": 32, "seconds": 90.0}
    sizes.clear()
    train_model(task, tmp_path / "run", config)
    assert set(sizes) == {3}


def test_saves_by_the_clock(task, tmp_path):
    events = []
    train_model(task, tmp_path / "run", tiny_config(task, save_every=99, save_minutes=0.0, max_steps=2), events.append)
    assert [event.step for event in of_kind(events, Saved)] == [0, 1, 2]


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
    monkeypatch.setattr(loop, "make_scaler", lambda _machine: torch.amp.GradScaler("cpu", init_scale=4.0))
    events = []
    config = tiny_config(task, max_steps=6, max_nonfinite=2, eval_every=99)
    with pytest.raises(TrainingError, match=r"step 4: the gradient is nan with utterances utt\d+, .*that is the 2\."):
        train_model(task, tmp_path / "run", config, events.append)
    reasons = [event.reason for event in of_kind(events, Skipped)]
    assert reasons == ["fp16 overflow", "fp16 overflow", "gradient", "gradient"], "the scale goes 2, 1, 0.5, 0.25"


def test_skipped_steps_do_not_move_the_schedule(task, tmp_path):
    events = []
    config = tiny_config(task, lr=1e30, warmup=0.0, max_nonfinite=99, max_grad_norm=0.0, max_steps=4)
    train_model(task, tmp_path / "run", config, events.append)
    rates = [event.lr for event in of_kind(events, Stepped)]
    assert len(of_kind(events, Skipped)) == 3
    assert rates[1] == rates[2] == rates[3] < rates[0], "one update was made, the other three steps were skipped"


class Arrived:
    """Stands for the event that tells when numbers have come from a GPU."""

    def synchronize(self):
        pass


def rates_of_a_run(monkeypatch, task, run, *, deferred, **changes):
    """The learning rate of each step; deferred: outcomes are read one step later, as on a GPU."""
    rates = []
    take, send = Stepper.take, step_module._send_to_host

    def take_and_note(self, batch, *, lr, **rest):
        rates.append(lr)
        return take(self, batch, lr=lr, **rest)

    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "take", take_and_note)
        patch.setattr(step_module, "_send_to_host", lambda n: (n.clone(), Arrived()) if deferred else send(n))
        train_model(task, run, tiny_config(task, epochs=99, max_steps=7, eval_every=99, save_every=99, **changes))
    return rates


@pytest.mark.parametrize("log_every", [1, 3, 99])
def test_schedule_does_not_wait_for_numbers_from_the_device(monkeypatch, task, tmp_path, log_every):
    at_once = rates_of_a_run(monkeypatch, task, tmp_path / "cpu", deferred=False, log_every=1)
    later = rates_of_a_run(monkeypatch, task, tmp_path / "gpu", deferred=True, log_every=log_every)
    assert later == at_once
    assert len(set(at_once)) == 7


def test_low_rank_updates_train_and_are_merged(task, tmp_path):
    pytest.importorskip("peft")
    report = train_model(task, tmp_path / "run", tiny_config(task, lora_rank=2, epochs=1, interpolate=True))
    assert not any("lora" in name for name in final_weights(tmp_path / "run"))
    assert report.steps == 2


def test_packed_windows_train(task, tmp_path):
    events = []
    train_model(task, tmp_path / "run", tiny_config(task, window="packed", batch_size=2, max_steps=2), events.append)
    assert of_kind(events, Stepped)[-1].audio_seconds_per_second > 0
    lines = [line for line in read_metrics(tmp_path / "run") if line["kind"] == "train"]
    assert sum(line["audio_seconds"] for line in lines) > 2 * 3.0, "rows hold several utterances"


def test_packed_windows_with_too_much_text_are_left_out(task, tmp_path):
    seconds = [1.0] * 8 + [20.0] * 2
    make_dataset(tmp_path / "train", seconds, text="xyzzy! " * 20, seed=3)
    events = []
    config = tiny_config(task, window="packed", batch_size=1, max_steps=3, save_every=99, eval=str(task / "eval"))
    report = train_model(tmp_path / "train", tmp_path / "run", config, events.append)
    assert report.steps == 3
    skipped = [line for line in read_metrics(tmp_path / "run") if line["kind"] == "skip"]
    assert skipped
    assert {line["reason"] for line in skipped} == {"text too long"}
    message = next(event.message for event in of_kind(events, Warned) if "packed" in event.message)
    assert "1 packed windows have more text than the decoder has room for and were not learned from" in message
    assert skipped[0]["keys"][0] in message


def test_eval_data_is_found_beside_or_inside(task, tmp_path):
    for start in (task, task / "train"):
        corpora = open_corpora(start, tiny_config(task))
        assert corpora.train.num_utterances == 12
        assert corpora.eval.num_utterances == 4
    shutil.copytree(task / "train", tmp_path / "alone")
    shutil.copytree(task / "eval", tmp_path / "alone" / "eval")
    assert open_corpora(tmp_path / "alone", tiny_config(task)).eval.num_utterances == 4
    assert open_corpora(tmp_path / "alone", tiny_config(task, eval=str(task))).eval.folder == task / "eval"


def test_missing_eval_data_is_named(task, tmp_path):
    shutil.copytree(task / "train", tmp_path / "train")
    with pytest.raises(DatasetError, match=r"no evaluation data: neither .* is a finished dataset; give --eval"):
        open_corpora(tmp_path / "train", tiny_config(task))


def test_empty_data_is_refused(task, tmp_path):
    make_dataset(tmp_path / "empty", [])
    with pytest.raises(DatasetError, match="the dataset is empty: nothing to train on"):
        open_corpora(tmp_path / "empty", tiny_config(task, eval=str(task / "eval")))
    with pytest.raises(TrainingError, match="the evaluation set is empty; prepare with --eval-fraction above 0"):
        open_corpora(task / "train", tiny_config(task, eval=str(tmp_path / "empty")))


def test_evaluation_data_known_from_training_is_refused(task, tmp_path):
    with pytest.raises(TrainingError, match=r"12 of 12 evaluation .* first is utt00000 \(is the training data"):
        open_corpora(task / "train", tiny_config(task, eval=str(task / "train")))
    make_dataset(tmp_path / "keys", [1.0, 1.2], seed=5)
    with pytest.raises(TrainingError, match=r"2 of 2 evaluation utterances are in .* too, the first is utt00000"):
        open_corpora(task / "train", tiny_config(task, eval=str(tmp_path / "keys")))
    seconds = np.random.default_rng(0).uniform(0.3, 2.5, 12).tolist()
    make_dataset(tmp_path / "audio", [9.0, *seconds[1:2]], prefix="renamed")
    with pytest.raises(TrainingError, match=r"1 of 2 evaluation utterances are in .* too, the first is renamed00001"):
        open_corpora(task / "train", tiny_config(task, eval=str(tmp_path / "audio")))


def test_texts_too_long_for_the_decoder_are_named(tmp_path, tiny):
    data = make_dataset(tmp_path / "long", [1.0] * 5, text="xyzzy! " * 150)
    with pytest.raises(
        TrainingError, match=r"5 utterances have texts of more than 448 tokens.*utt00000, utt00001, utt00002 \.\.\."
    ):
        check_labels(data, Labeler(tiny.tokenizer))
    check_labels(make_dataset(tmp_path / "fits", [1.0], text="zero " * 100), Labeler(tiny.tokenizer))


def test_times_need_room_too(tmp_path, tiny):
    labeler = Labeler(tiny.tokenizer)
    text = "q" * 900
    while len(labeler.prefix_ids()) + len(tiny.tokenizer.encode(f" {text}", add_special_tokens=False)) > 448:
        text = text[:-1]
    data = make_dataset(tmp_path / "data", [1.0], text=text)
    check_labels(data, labeler)
    with pytest.raises(TrainingError, match="1 utterances have texts of more than 448 tokens"):
        check_labels(data, labeler, timestamps=True)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (
            {"language": "klingon"},
            r"utterance utt00000: language 'klingon': the model has no token <\|klingon\|>",
        ),
        ({"task": "sing"}, r"utterance utt00000: task 'sing' is unknown; use transcribe or translate; it is the first"),
    ],
)
def test_unknown_language_or_task_is_named_before_training(tmp_path, tiny, record, message):
    data = make_dataset(tmp_path / "data", [1.0, 1.0], record=record)
    with pytest.raises(TrainingError, match=message):
        check_labels(data, Labeler(tiny.tokenizer))
    check_labels(make_dataset(tmp_path / "german", [1.0], record={"language": "de-DE"}), Labeler(tiny.tokenizer))


def test_float16_on_a_cpu_is_refused(task, tmp_path):
    with pytest.raises(ConfigError, match="--precision fp16 does not work on a CPU; use bf16 or fp32"):
        train_model(task, tmp_path / "run", tiny_config(task, precision="fp16"))


def test_interrupted_lines_are_cut_off(tmp_path):
    with MetricsLog(tmp_path, step=-1, tensorboard=False) as log:
        for step in range(5):
            log.write("train", step, loss=1.0 / (step + 1))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "st')
    with MetricsLog(tmp_path, step=2, tensorboard=False) as log:
        log.write("train", 3, loss=0.5)
    assert [(line["step"], line["loss"]) for line in read_metrics(tmp_path)] == [
        (0, 1.0),
        (1, 0.5),
        (2, 1 / 3),
        (3, 0.5),
    ]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_full_disk_is_the_machines_fault(tmp_path):
    message = r"metrics\.jsonl: cannot write: No space left on device; free some space, then run the same command"
    with (
        pytest.raises(EnvironmentFault, match=message),
        MetricsLog(tmp_path, step=-1, tensorboard=False) as log,
        open("/dev/full", "a") as full,
    ):
        os.dup2(full.fileno(), log._file.fileno())
        log.write("train", 1, loss=1.0)


def test_end_that_was_killed_leaves_no_second_lines(task, tmp_path):
    run, config = tmp_path / "run", tiny_config(task, lr=1e-30, max_steps=2)
    train_model(task, run, config)
    before = [(line["kind"], line["step"]) for line in read_metrics(run)]
    (run / "report.json").unlink()
    train_model(task, run, config)
    after = [(line["kind"], line["step"]) for line in read_metrics(run) if line["kind"] != "resume"]
    assert after == before
    assert {"warning", "final"} <= {kind for kind, _ in after}


def test_ledger_tells_sets_apart_but_not_orders():
    parts, whole, twice = Ledger(), Ledger(), Ledger()
    for ids in ([3, 1], [0], [2]):
        parts.add(ids, samples=SAMPLE_RATE, empty_rows=0)
    whole.add(range(4), samples=3 * SAMPLE_RATE, empty_rows=0)
    twice.add([0, 1, 2, 2], samples=3 * SAMPLE_RATE, empty_rows=0)
    assert parts == whole != twice
    assert whole.digest == digest_ids(np.arange(4, dtype=np.uint64))


def test_resumed_run_tells_so(task, tmp_path):

    def stop(event):
        if isinstance(event, Stepped) and event.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(StopRequested, match=r"stopped by SIGTERM .*, all is saved; the same command again") as stopped:
        train_model(task, tmp_path / "run", tiny_config(task), stop)
    assert stopped.value.exit_code == 75
    at = list_checkpoints(tmp_path / "run" / "checkpoints")[-1]
    events = []
    train_model(task, tmp_path / "run", tiny_config(task), events.append)
    assert of_kind(events, Resumed)[0].step == at
    assert math.isfinite(of_kind(events, Stepped)[-1].loss)


@pytest.mark.parametrize("nth", [0, 1, 4, 6, 9])
def test_stops_between_batches_of_an_evaluation_and_goes_on_the_same(task, tmp_path, nth):
    """The runs have 2 batches an evaluation: before, after steps 2 and 4, and twice at the end."""
    seen = []

    def stop(event):
        if isinstance(event, Examining):
            seen.append(event)
            if len(seen) == nth + 1:
                os.kill(os.getpid(), signal.SIGTERM)

    config = tiny_config(task, max_steps=4, interpolate=True)
    with pytest.raises(StopRequested, match=r"run: stopped by SIGTERM while evaluating, all is saved; the same"):
        train_model(task, tmp_path / "run", config, stop)
    assert len(seen) == nth + 1
    assert (seen[0].num_done, seen[0].num_utterances, seen[0].window) == (3, 4, "full")
    train_model(task, tmp_path / "run", config)
    train_model(task, tmp_path / "other", config)
    assert lasting_metrics(tmp_path / "run") == lasting_metrics(tmp_path / "other")
    ours, theirs = final_weights(tmp_path / "run"), final_weights(tmp_path / "other")
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
