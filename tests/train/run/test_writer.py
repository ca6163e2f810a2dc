"""Checkpoints are written beside training: it goes on, and what is written is of the step that was saved."""

import errno
import threading
import time

import pytest

from tests.train.running import assert_same_result, launch, on_ranks, report_of, tiny_config
from whisper_shard.errors import EnvironmentFault, StopRequested
from whisper_shard.train.events import Evaluating, Saved, Stepped
from whisper_shard.train.loop import train_model
from whisper_shard.train.run import checkpoint, checkpointer
from whisper_shard.train.run.writer import CheckpointWriter

SECONDS = 60.0
"""No wait in these tests is as long, unless something waits for itself."""


@pytest.mark.slow
def test_training_goes_on_while_a_checkpoint_is_written(monkeypatch, task, tmp_path):
    """The disk writes nothing of step 2 before step 4 is made; what it writes then resumes at step 2."""
    made, seen = threading.Event(), []

    def wait_and_save(folder, *, step, **rest):
        if step == 2 and folder.name == "checkpoints":
            assert made.wait(SECONDS)
        return checkpoint.save_checkpoint(folder, step=step, **rest)

    def look(event):
        seen.extend([(type(event).__name__, event.step)] if isinstance(event, Stepped | Saved) else [])
        if isinstance(event, Stepped) and event.step == 4:
            made.set()
        if isinstance(event, Saved) and event.step == 2:
            raise InterruptedError  # the process ends here, with a checkpoint of step 2

    monkeypatch.setattr(checkpointer, "save_checkpoint", wait_and_save)
    config = tiny_config(task)
    with pytest.raises(InterruptedError):
        train_model(task, tmp_path / "run", config, look)
    assert seen.index(("Stepped", 4)) < seen.index(("Saved", 2))
    monkeypatch.undo()
    for path in (tmp_path / "run" / "checkpoints").glob("step-00000004"):
        path.rename(tmp_path / "later")
    assert [end.exit_code for end in launch(task, tmp_path / "run", config)] == [0]
    assert [end.exit_code for end in launch(task, tmp_path / "undisturbed", config)] == [0]
    assert_same_result(tmp_path / "run", tmp_path / "undisturbed")


def test_a_full_disk_ends_training_at_one_of_the_next_steps(monkeypatch, task, tmp_path):
    write = checkpoint._write_tensors

    def fill(path, tensors):
        if "step-00000002" in str(path):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return write(path, tensors)

    monkeypatch.setattr(checkpoint, "_write_tensors", fill)
    with pytest.raises(EnvironmentFault, match=r"step-00000002: .*space"):
        train_model(task, tmp_path / "run", tiny_config(task))


def test_an_evaluation_that_is_stopped_waits_for_its_checkpoint(task, tmp_path):
    import os
    import signal

    events = []

    def stop(event):
        events.append(event)
        if isinstance(event, Evaluating) and event.num_done == 0 and any(isinstance(e, Stepped) for e in events):
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(StopRequested):
        train_model(task, tmp_path / "run", tiny_config(task), stop)
    step = max(event.step for event in events if isinstance(event, Stepped))
    assert [event.step for event in events if isinstance(event, Saved)][-1] == step
    assert (tmp_path / "run" / "checkpoints" / f"step-{step:08d}" / "state.json").is_file()


def train_with_a_slow_disk(ranks, task, run):
    """Train on one of several ranks, of which the first takes a second for each checkpoint; return the best weights."""

    def save_slowly(*args, **rest):
        time.sleep(1.0)
        return checkpoint.save_checkpoint(*args, **rest)

    checkpointer.save_checkpoint = save_slowly
    # The weights at the end are worse than those before, which are read again.
    train_model(task, run, tiny_config(task, average=3, eval_every=2, max_steps=4, dropout=0.0))
    return report_of(run).chosen if ranks.is_first else ""


@pytest.mark.slow
def test_no_rank_reads_what_the_first_has_not_written_yet(task, tmp_path):
    chosen, nothing = on_ranks(2, train_with_a_slow_disk, task, tmp_path / "run")
    assert chosen.startswith(("best", "average"))
    assert not nothing


def test_what_waits_is_bounded_and_faults_come_out_once(tmp_path):
    may_go_on, begun = threading.Event(), []

    def write(number):
        begun.append(number)
        assert may_go_on.wait(SECONDS)
        if number == 1:
            raise EnvironmentFault("disk full")
        return Saved(step=number, folder=tmp_path)

    with CheckpointWriter() as writer:
        writer.start(lambda: write(0))
        writer.start(lambda: write(1))
        assert writer.take_written() == []
        threading.Timer(0.05, may_go_on.set).start()
        writer.make_room()  # waits for the first
        assert begun[0] == 0
        writer.start(lambda: write(2))
        with pytest.raises(EnvironmentFault, match="disk full"):
            writer.wait()
        writer.wait()
        assert [saved.step for saved in writer.take_written()] == [0, 2]
        assert writer.take_written() == []


def test_a_fault_of_the_disk_does_not_hide_another():
    def write():
        raise EnvironmentFault("disk full")

    with pytest.raises(ValueError, match="loss is not finite"), CheckpointWriter() as writer:
        writer.start(write)
        raise ValueError("loss is not finite")
    with pytest.raises(EnvironmentFault, match="disk full"), CheckpointWriter() as writer:
        writer.start(write)
