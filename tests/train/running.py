"""Runs of the real training loop in processes of their own: on several ranks, and killed where a test wants it."""

import functools
import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from tests.making import WORDS, make_dataset
from whisper_shard.config.settings import replace_settings
from whisper_shard.config.train import TrainConfig
from whisper_shard.demo.tiny_whisper import make_tiny_whisper
from whisper_shard.errors import WhisperShardError
from whisper_shard.train.events import Event, Saved, Stepped
from whisper_shard.train.ranks import join_ranks, leave_ranks
from whisper_shard.train.run.folder import RunFolder, read_report
from whisper_shard.train.run.metrics import TIMING, read_metrics

_PRELOADED = [
    "transformers.models.whisper.modeling_whisper",
    "transformers.models.whisper.processing_whisper",
    "transformers.models.whisper.tokenization_whisper",
    "audiomentations",
    "jiwer",
    "pandas",
    "whisper_shard.train.loop",
    "torch.distributed.fsdp",
    "torch.distributed.device_mesh",
]


def make_task(folder: Path, *, train: int = 12, evaluation: int = 4) -> Path:
    """A folder with train, eval and a tiny Whisper with a window of 6 s, small enough to train in a second."""
    rng = np.random.default_rng(0)
    make_dataset(folder / "train", rng.uniform(0.3, 2.5, train).tolist())
    make_dataset(folder / "eval", rng.uniform(0.3, 2.5, evaluation).tolist(), seed=9, prefix="eval")
    make_tiny_whisper(
        folder / "tiny", texts=[" ".join(WORDS)], width=16, encoder_layers=1, decoder_layers=1, heads=2,
        vocabulary=260, max_seconds=6,
    )  # fmt: skip
    return folder


def tiny_config(task: Path, **changes: object) -> TrainConfig:
    """Settings that train the tiny model of a task on one thread, saving every second step."""
    settings = {
        "model": str(task / "tiny"), "batch_size": 6, "epochs": 3, "workers": 0, "lr": 3e-3, "log_every": 1,
        "eval_batch": 3, "max_new_tokens": 6, "threads": 1, "tensorboard": False, "patience": 0, "save_every": 2,
        "dropout": 0.1,
    }  # fmt: skip
    return replace_settings(TrainConfig(), {**settings, **changes})


@dataclass(frozen=True, kw_only=True)
class Kill:
    """Where a process is killed: so long after it has announced a step."""

    step: int
    seconds: float = 0.0
    rank: int = 0
    evaluating: bool = False
    """At the evaluation of the step instead, on any rank: before its first batch."""
    signal: int = signal.SIGKILL


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a process ended: its exit code, negative for a signal, the error it met, and what it has found."""

    exit_code: int
    message: str = ""
    result: Any = None


class _Killer:
    def __init__(self, kill: Kill) -> None:
        self.kill = kill

    def __call__(self, event: Event) -> None:
        if isinstance(event, Stepped | Saved) and event.step == self.kill.step:
            threading.Timer(self.kill.seconds, os.kill, (os.getpid(), self.kill.signal)).start()


def _train(rank: int, task: Path, run: Path, config: TrainConfig, kill: Kill | None) -> None:
    from whisper_shard.train.loop import train_model

    if kill is not None and kill.evaluating:
        if rank == kill.rank:
            _signal_while_evaluating(kill)
    elif kill is not None and rank == kill.rank != 0:
        # Only rank 0 reports progress: another rank is killed by the clock of its own steps.
        from whisper_shard.train import step as step_module

        make_step = step_module.TrainStep.__call__

        def step_or_die(self, batch, *, step, **rest):
            if step == kill.step:
                os.kill(os.getpid(), kill.signal)
            return make_step(self, batch, step=step, **rest)

        step_module.TrainStep.__call__ = step_or_die
    is_killer = kill is not None and kill.rank == rank == 0 and not kill.evaluating
    train_model(task, run, config, _Killer(kill) if is_killer else _ignore)


def _signal_while_evaluating(kill: Kill) -> None:
    from whisper_shard.score.evaluate import BatchEvaluator
    from whisper_shard.train import loop

    evaluate, evaluate_run, steps = BatchEvaluator.evaluate, loop.Trainer._evaluate, []

    def evaluate_or_die(self, batch):
        if steps and steps.pop() == kill.step:
            os.kill(os.getpid(), kill.signal)
        return evaluate(self, batch)

    def note_step(self):
        steps[:] = [self.state.step]
        return evaluate_run(self)

    BatchEvaluator.evaluate, loop.Trainer._evaluate = evaluate_or_die, note_step


def _ignore(event: Event) -> None:
    pass


@functools.cache
def fork_server():
    """A server that has imported everything once; one that other tests have started without that is replaced."""
    forkserver._forkserver._stop()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    return context


def launch(task: Path, run: Path, config: TrainConfig, *, kill: Kill | None = None, world: int = 1) -> list[Ended]:
    """Train in ``world`` processes and return how each of them ended."""
    return start_ranks(world, _train, task, run, config, kill)


def on_ranks(world: int, work: Callable[..., Any], *inputs: Any) -> list[Any]:
    """Call ``work(ranks, *inputs)`` in processes that are connected.

    Returns:
        What each of them returns, or the message of its error; None: it was killed.
    """
    return [end.message or end.result for end in start_ranks(world, _join_and_work, work, inputs)]


def start_ranks(world: int, work: Callable[..., Any], *inputs: Any) -> list[Ended]:
    """Call ``work(rank, *inputs)`` in processes with the environment of torchrun, and return how each of them ended."""
    context = fork_server()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started = []
    for rank in range(world):
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_run_rank, args=(rank, world, port, sender, work, inputs))
        process.start()
        sender.close()
        started.append((process, receiver))
    return [_join(process, receiver) for process, receiver in started]


def _run_rank(rank: int, world: int, port: int, pipe, work: Callable[..., Any], inputs: Sequence[Any]) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored where the tests run under nohup
    if world > 1:
        names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in names.items()})
    try:
        pipe.send(("", work(rank, *inputs)))
        exit_code = 0
    except WhisperShardError as error:
        pipe.send((str(error), None))
        exit_code = error.exit_code
    pipe.close()
    os._exit(exit_code)


def _join_and_work(rank: int, work: Callable[..., Any], inputs: Sequence[Any]) -> Any:
    torch.set_num_threads(1)
    ranks = join_ranks(torch.device("cpu"))
    result = work(ranks, *inputs)
    leave_ranks(ranks)
    return result


def _join(process, receiver) -> Ended:
    try:
        message, result = receiver.recv()
    except EOFError:
        message, result = "", None
    process.join(timeout=120)
    return Ended(exit_code=process.exitcode, message=message, result=result)


def build_step(ranks, model_folder, config, *, loss_scale=None, silence_source=None):
    """What makes the optimizer steps of one of several ranks."""
    from whisper_shard.model.labels import Labeler
    from whisper_shard.model.whisper import load_whisper
    from whisper_shard.train.build import build_trainable
    from whisper_shard.train.global_batch import GlobalBatchBuilder
    from whisper_shard.train.run.context import Machine
    from whisper_shard.train.step import TrainStep

    machine = Machine(device=torch.device("cpu"), dtype=torch.float32, ranks=ranks)
    loaded = load_whisper(str(model_folder))
    trainable = build_trainable(loaded, config, machine)
    if loss_scale:
        trainable = replace(trainable, scaler=torch.amp.GradScaler("cpu", init_scale=loss_scale))
    builder = GlobalBatchBuilder(
        labeler=Labeler(loaded.tokenizer), config=config, ranks=ranks, total_steps=100,
        longest_window=trainable.longest_window,
    )  # fmt: skip
    return TrainStep(trainable, builder, config, machine, silence_source)


def lasting_metrics(run: Path) -> list[dict]:
    """All that metrics.jsonl says, but for times and for how often the run was resumed."""
    lines = [line for line in read_metrics(run) if line["kind"] != "resume"]
    return [{name: value for name, value in line.items() if name not in TIMING} for line in lines]


def final_weights(run: Path) -> dict:
    """The weights of the result."""
    return load_file(run / "model" / "model.safetensors")


def report_of(run: Path):
    """The report of a finished run."""
    return read_report(RunFolder(path=run))


def assert_same_result(run: Path, undisturbed: Path) -> None:
    """Two runs have the same metrics, weights and report, to the bit."""
    assert lasting_metrics(run) == lasting_metrics(undisturbed)
    ours, theirs = final_weights(run), final_weights(undisturbed)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name
    assert report_of(run).wer == report_of(undisturbed).wer


def of_kind(events, kind) -> list:
    """The events of one kind."""
    return [event for event in events if isinstance(event, kind)]
