"""What goes into checkpoints, and when."""

import os
import shutil
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.making import WORDS
from tests.train.running import of_kind, on_ranks, tiny_config
from whisper_shard.dataset.index import open_dataset
from whisper_shard.demo.tiny_whisper import make_tiny_whisper
from whisper_shard.errors import StateError, StopRequested, TrainingError
from whisper_shard.model.whisper import load_whisper
from whisper_shard.stream.loader import open_loader
from whisper_shard.train.build import build_trainable
from whisper_shard.train.events import Saved, Stepped, ignore_event
from whisper_shard.train.loop import train_model
from whisper_shard.train.ranks import Ranks
from whisper_shard.train.run import checkpointer
from whisper_shard.train.run.checkpoint import (
    checkpoint_path,
    list_checkpoints,
    load_checkpoint,
    load_latest,
    save_checkpoint,
)
from whisper_shard.train.run.checkpointer import Checkpointer, load_agreed
from whisper_shard.train.run.context import Machine, RunContext
from whisper_shard.train.run.folder import RunFolder
from whisper_shard.train.run.state import RunState
from whisper_shard.train.signals import StopRequest
from whisper_shard.train.step import TrainStep

CPU = Machine(device=torch.device("cpu"), dtype=torch.float32, ranks=Ranks())


@pytest.mark.slow
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
    shutil.rmtree(model)
    shutil.copytree(task / "tiny", model)
    weights = load_file(model / "model.safetensors")
    weights["model.encoder.conv1.weight"] += 0.01
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(StateError, match=r"step-00000001: the checkpoint is of another model: .* of the same shape"):
        train_model(task, tmp_path / "run", config)


@pytest.mark.slow
def test_each_checkpoint_has_the_best_weights_it_names(monkeypatch, task, tmp_path):
    folder = tmp_path / "run" / "checkpoints"
    kept = []

    def save_and_look(*args, **kwargs):
        path = save_checkpoint(*args, **kwargs)
        steps = list_checkpoints(folder)
        best = [load_checkpoint(checkpoint_path(folder, step)).state["run"]["best_step"] for step in steps[-2:]]
        assert set(best) <= set(steps), f"checkpoints {steps} name {best} as best"
        kept.append(steps)
        return path

    monkeypatch.setattr(checkpointer, "save_checkpoint", save_and_look)
    train_model(task, tmp_path / "run", tiny_config(task, eval_every=3, save_every=1, max_steps=5))
    assert kept == [[0], [0, 1], [0, 1, 2], [0, 2, 3], [3, 4], [3, 4, 5]]


@pytest.mark.slow
def test_what_fits_into_a_pass_is_remembered(monkeypatch, task, tmp_path):
    """Memory runs out at the first pass of the first call only; the second call never tries that much again."""
    sizes, fail = [], [True]
    real = TrainStep._run_pass

    def pass_or_run_out(self, inputs, micro_batch, number):
        sizes.append(len(micro_batch.rows))
        if fail:
            fail.pop()
            raise torch.OutOfMemoryError("out of memory")
        return real(self, inputs, micro_batch, number)

    monkeypatch.setattr(TrainStep, "_run_pass", pass_or_run_out)
    config = tiny_config(task, window="full", max_steps=4)

    def stop(event):
        if isinstance(event, Stepped) and event.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(StopRequested, match="stopped by SIGTERM"):
        train_model(task, tmp_path / "run", config, stop)
    assert sizes[0] == 6
    assert set(sizes[1:]) == {3}
    state = load_latest(tmp_path / "run" / "checkpoints", warn=[].append).state
    assert state["run"]["pass_limit"] == {"device": "cpu", "utterances": 32, "seconds": 18.0}
    sizes.clear()
    train_model(task, tmp_path / "run", config)
    assert set(sizes) == {3}


def test_saves_by_the_clock(task, tmp_path):
    events = []
    train_model(task, tmp_path / "run", tiny_config(task, save_every=99, save_minutes=0.0, max_steps=2), events.append)
    assert [event.step for event in of_kind(events, Saved)] == [0, 1, 2]


def save_steps(folder, *steps):
    for step in steps:
        save_checkpoint(folder, step=step, tensors={"model": {"w": torch.ones(2)}}, state={}, keep=steps)


def answers(monkeypatch, *rounds):
    """Let a second rank report these newest steps, one a round."""
    others = iter(rounds)
    monkeypatch.setattr(checkpointer, "gather_rows", lambda rows, ranks: [rows, np.array([[next(others)]])])
    monkeypatch.setattr(checkpointer, "gather_texts", lambda texts, ranks: texts)


def test_ranks_go_on_from_the_newest_checkpoint_that_all_can_read(monkeypatch, tmp_path):
    save_steps(tmp_path, 2, 4, 6)
    two = Ranks(rank=0, world=2)
    answers(monkeypatch, 6)
    assert load_agreed(tmp_path, two, warn=pytest.fail).step == 6
    answers(monkeypatch, 4, 4)
    assert load_agreed(tmp_path, two, warn=pytest.fail).step == 4
    (checkpoint_path(tmp_path, 4) / "model.safetensors").write_bytes(b"cut")
    warnings = []
    answers(monkeypatch, 4, 2, 2)
    assert load_agreed(tmp_path, two, warn=warnings.append).step == 2
    assert len(warnings) == 1
    assert "going back to the checkpoint before it" in warnings[0]


def test_a_rank_without_checkpoints_is_named(monkeypatch, tmp_path):
    save_steps(tmp_path, 2)
    answers(monkeypatch, -1)
    message = (
        r"rank 1 can read no checkpoint, rank 0 reads that of step 2; put RUN on a filesystem that all ranks share"
    )
    with pytest.raises(StateError, match=message):
        load_agreed(tmp_path, Ranks(rank=0, world=2), warn=pytest.fail)


@pytest.mark.parametrize(("change", "is_apart"), [(0.0, False), (1e-8, False), (1e-5, True)], ids=str)
def test_ranks_with_other_weights_are_noticed(monkeypatch, task, tmp_path, change, is_apart):
    """A run on one rank that believes in a second one whose weights differ."""

    def gather(rows, ranks):
        return [rows, (rows[:, 0].copy().view(np.float64) + change).view(np.int64)[:, None]]

    trainable = build_trainable(load_whisper(str(task / "tiny")), tiny_config(task), CPU)
    context = RunContext(
        config=tiny_config(task), folder=RunFolder(path=tmp_path), machine=replace(CPU, ranks=Ranks(world=2)),
        request=StopRequest(), progress=ignore_event,
    )  # fmt: skip
    saver = Checkpointer(context=context, trainable=trainable, base="", silence="")
    monkeypatch.setattr(checkpointer, "gather_rows", gather)
    if not is_apart:
        saver._check_same_weights("step 7")
        return
    with pytest.raises(TrainingError, match="step 7: rank 1 has other weights than rank 0: they no longer train one"):
        saver._check_same_weights("step 7")


STEPS = (2, 4, 6)
WHOLE, GONE, DAMAGED = "whole", "gone", "damaged"


def load_own(ranks, root):
    """Read checkpoints as one of several ranks that each have a folder of their own; return the step and warnings."""
    warnings = []
    found = load_agreed(root / str(ranks.rank), ranks, warn=warnings.append)
    return found.step, warnings


@pytest.mark.parametrize(
    ("of_first", "of_second", "expected"),
    [
        ((WHOLE, WHOLE, WHOLE), (WHOLE, WHOLE, GONE), 4),
        ((WHOLE, WHOLE, WHOLE), (WHOLE, WHOLE, DAMAGED), 4),
        ((WHOLE, DAMAGED, WHOLE), (WHOLE, WHOLE, GONE), 2),
        ((WHOLE, WHOLE, GONE), (WHOLE, DAMAGED, DAMAGED), 2),
    ],
    ids=["one-step-less", "newest-damaged", "damaged-further-back", "two-damaged"],
)
def test_two_ranks_go_on_from_the_newest_checkpoint_that_both_can_read(tmp_path, of_first, of_second, expected):
    for rank, states in enumerate((of_first, of_second)):
        save_steps(tmp_path / str(rank), *STEPS)
        for step, state in zip(STEPS, states, strict=True):
            folder = checkpoint_path(tmp_path / str(rank), step)
            if state == GONE:
                shutil.rmtree(folder)
            elif state == DAMAGED:
                (folder / "model.safetensors").write_bytes(b"cut")
    first, second = on_ranks(2, load_own, tmp_path)
    assert first == second, "the same step, and both warn of what one of them has passed over"
    assert first[0] == expected
    assert len(first[1]) == (*of_first, *of_second).count(DAMAGED)
    assert all("going back to the checkpoint before it" in warning for warning in first[1])


def test_two_ranks_one_of_which_has_no_checkpoint_end_with_one_line(tmp_path):
    save_steps(tmp_path / "0", 2)
    first, second = on_ranks(2, load_own, tmp_path)
    for rank, message in enumerate((first, second)):
        assert message == (
            f"{tmp_path / str(rank)}: rank 1 can read no checkpoint, rank 0 reads that of step 2; put RUN on a "
            "filesystem that all ranks share"
        )


def save_with_weights_of_its_own(ranks, task, run, change):
    """Save a checkpoint as one of two ranks, of which the second has other weights; return the steps it has saved."""
    config, machine = tiny_config(task), replace(CPU, ranks=ranks)
    trainable = build_trainable(load_whisper(str(task / "tiny")), config, machine)
    with torch.no_grad():
        trainable.parameters[3] += change * ranks.rank
    context = RunContext(
        config=config, folder=RunFolder(path=run), machine=machine, request=StopRequest(), progress=ignore_event
    )
    loader = open_loader(open_dataset(task / "train"), config.stream, rank=ranks.rank, world=ranks.world)
    saver = Checkpointer(context=context, trainable=trainable, base="", silence="")
    saver.save(RunState(step=7), loader.start)
    saver.writer.wait()
    return [saved.step for saved in saver.writer.take_written()]


def test_two_ranks_with_other_weights_save_nothing_and_end_with_one_line(task, tmp_path):
    run = tmp_path / "run"
    ends = on_ranks(2, save_with_weights_of_its_own, task, run, 0.01)
    for rank, message in enumerate(ends):
        assert message == (
            f"step 7: rank {1 - rank} has other weights than rank {rank}: they no longer train one model; put RUN on "
            "a filesystem that all ranks share, then run the same command again"
        )
    assert not list_checkpoints(run / "checkpoints")
    assert on_ranks(2, save_with_weights_of_its_own, task, run, 0.0) == [[7], []], "rank 0 writes"
    assert list_checkpoints(run / "checkpoints") == [7]
