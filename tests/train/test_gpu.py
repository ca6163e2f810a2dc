"""What can be known of a GPU without one: nothing in a step waits, and float16 is scaled, skipped and resumed rightly.

Tests marked `cuda` are the same questions to a real one.
"""

import gc
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from tests.train.running import final_weights, lasting_metrics, make_task, of_kind, report_of, tiny_config
from tests.train.stand_in_gpu import CASES
from whisper_shard.dataset.index import open_dataset
from whisper_shard.errors import StopRequested
from whisper_shard.model.forward import SpeechLoss
from whisper_shard.model.labels import Labeler
from whisper_shard.model.whisper import load_whisper
from whisper_shard.score.evaluate import EvaluationSettings, evaluate_model
from whisper_shard.stream.loader import open_loader
from whisper_shard.train import build
from whisper_shard.train.build import build_trainable
from whisper_shard.train.events import Skipped, Stepped
from whisper_shard.train.global_batch import GlobalBatchBuilder, Requests
from whisper_shard.train.loop import train_model
from whisper_shard.train.ranks import Ranks
from whisper_shard.train.run.context import Machine
from whisper_shard.train.silence_source import find_silence_source
from whisper_shard.train.step import TrainStep

ROOT = Path(__file__).parents[2]
HUGE = 2.0**127
"""A loss scaled by this is infinite."""
READS = {"_local_scalar_dense", "is_nonzero", "nonzero", "equal", "masked_select", "unique_dim", "_unique2"}
"""Operations that give the host something that only the device knows."""
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


class HostLabeler(Labeler):
    """Makes labels on the host, where reading is free."""

    def collate(self, rows, **more):
        with _disable_current_modes():
            return super().collate(rows, **more)


def make_train_step(task, *, scale=0.0, device="cpu", dtype=torch.float32, network=SpeechLoss, **settings):
    config = tiny_config(task, augment=(), **settings)
    machine = Machine(device=torch.device(device), dtype=dtype, ranks=Ranks())
    loaded = load_whisper(str(task / "tiny"), dropout=config.regularization.dropout)
    data = open_dataset(task / "train")
    trainable = replace(
        build_trainable(loaded, config, machine),
        scaler=torch.amp.GradScaler(machine.device.type, enabled=scale > 0, init_scale=scale or 1.0),
    )
    trainable.network.__class__ = network
    builder = GlobalBatchBuilder(
        labeler=HostLabeler(loaded.tokenizer), config=config, ranks=Ranks(), total_steps=100,
        longest_window=trainable.longest_window,
    )  # fmt: skip
    silence_source = find_silence_source([data]).waveform if config.window.borrows_silence else None
    train_step = TrainStep(trainable, builder, config, machine, silence_source)
    return train_step, next(iter(open_loader(data, config.stream)))


def weights_of(train_step):
    return {name: p.detach().cpu().clone() for name, p in train_step.trainable.network.named_parameters()}


class Reading(TorchDispatchMode):
    """Notes every operation that reads from the device."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        by_mask = name.startswith("index") and any(
            isinstance(index, torch.Tensor) and index.dtype == torch.bool
            for arg in args if isinstance(arg, list | tuple) for index in arg
        )  # fmt: skip
        if name in READS or by_mask:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


class ReadingNetwork(SpeechLoss):
    """A network as somebody might change it: it looks at its loss."""

    def forward(self, *inputs, **keywords):
        loss, tokens = super().forward(*inputs, **keywords)
        return (loss if loss > 0 else loss * 0), tokens


@pytest.mark.parametrize("network", [SpeechLoss, ReadingNetwork])
def test_a_step_reads_nothing_back(task, network):
    train_step, batch = make_train_step(
        task, scale=2.0, network=network, spec_augment=True, stochastic_depth=0.1, label_smoothing=0.1, ema=0.9,
        gradient_checkpointing=True, micro_batch=2,
    )  # fmt: skip
    with Reading() as reading:
        result = train_step(batch, step=0, lr=1e-3, requests=Requests())
    assert len(result.passes) == 3
    assert set(reading.found) == (set() if network is SpeechLoss else {"_local_scalar_dense"})


@pytest.mark.parametrize("settings", [{}, {"gradient_checkpointing": True}])
def test_a_step_leaves_no_tensors_to_a_collector_that_is_off(task, settings):
    train_step, batch = make_train_step(task, **settings)
    train_step(batch, step=0, lr=1e-3, requests=Requests())
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        train_step(batch, step=1, lr=1e-3, requests=Requests())
        gc.collect()
        assert not [thing for thing in gc.garbage if isinstance(thing, torch.Tensor)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


def test_a_scaled_loss_gives_the_same_update(task):
    plain, batch = make_train_step(task)
    scaled, _ = make_train_step(task, scale=1024.0)
    for step in (0, 1):
        numbers = [each(batch, step=step, lr=1e-3, requests=Requests()).read() for each in (plain, scaled)]
        assert numbers[0] == pytest.approx(numbers[1], rel=1e-5)
    for name, weight in weights_of(plain).items():
        torch.testing.assert_close(weights_of(scaled)[name], weight)


def test_an_overflow_changes_nothing_but_the_scale(task):
    train_step, batch = make_train_step(task, scale=HUGE)
    before = weights_of(train_step)
    result = train_step(batch, step=0, lr=1e-3, requests=Requests())
    loss, norm, skipped = result.read()
    assert skipped and loss < 100.0 and not norm < float("inf")
    assert result.is_overflow()
    assert train_step.trainable.scaler.get_scale() == HUGE / 2
    for name, weight in weights_of(train_step).items():
        assert torch.equal(weight, before[name]), name
    for state in train_step.trainable.optimizer.state.values():
        assert not state["step"] and not state["exp_avg"].any() and not state["exp_avg_sq"].any()
    train_step.trainable.scaler.update(1024.0)
    assert not train_step(batch, step=1, lr=1e-3, requests=Requests()).read()[2]
    name = "model.model.encoder.conv1.weight"
    assert not torch.equal(weights_of(train_step)[name], before[name])


def test_an_infinite_loss_is_skipped_under_a_scale_as_well(task):
    """The scaler looks at gradients only, and these are finite."""
    train_step, _ = make_train_step(task, scale=1024.0)
    before = weights_of(train_step)
    for parameter in train_step.parameters:
        parameter.grad = torch.ones_like(parameter)
    _, skipped = train_step._update(torch.tensor(torch.inf), 1e-3)
    assert skipped == 1.0
    assert all(torch.equal(weight, before[name]) for name, weight in weights_of(train_step).items())


@pytest.mark.parametrize("scale", [0.0, 1024.0])
def test_a_step_in_which_nothing_counts_changes_nothing(task, scale):
    train_step, batch = make_train_step(task, scale=scale, ema=0.9)
    before = weights_of(train_step)
    batch.weights.zero_()
    assert train_step(batch, step=0, lr=1e-3, requests=Requests()).read() == (0.0, 0.0, True)
    assert all(torch.equal(weight, before[name]) for name, weight in weights_of(train_step).items())


def scaled_from(monkeypatch, scale):
    monkeypatch.setattr(build, "make_scaler", lambda machine: torch.amp.GradScaler("cpu", init_scale=scale))


def stop_after(step):
    def stop(event):
        if isinstance(event, Stepped) and event.step == step:
            os.kill(os.getpid(), signal.SIGTERM)

    return stop


@pytest.mark.slow
def test_skipped_steps_and_the_scale_outlive_a_stop(monkeypatch, task, tmp_path):
    """The first steps overflow: they move no learning rate, and who goes on goes on with the lowered scale."""
    scaled_from(monkeypatch, HUGE)
    config, events = tiny_config(task), []
    train_model(task, tmp_path / "whole", config, events.append)
    assert 0 < len(of_kind(events, Skipped)) < 4
    assert {event.reason for event in of_kind(events, Skipped)} == {"fp16 overflow"}
    with pytest.raises(StopRequested, match="stopped by SIGTERM"):
        train_model(task, tmp_path / "parts", config, stop_after(4))
    train_model(task, tmp_path / "parts", config)
    assert lasting_metrics(tmp_path / "parts") == lasting_metrics(tmp_path / "whole")
    whole, parts = (final_weights(tmp_path / name) for name in ("whole", "parts"))
    assert all(torch.equal(weight, parts[name]) for name, weight in whole.items())


@pytest.mark.slow
def test_a_run_in_bfloat16_goes_on_in_float16(monkeypatch, task, tmp_path):
    config = tiny_config(task)
    with pytest.raises(StopRequested, match="stopped by SIGTERM"):
        train_model(task, tmp_path / "run", config, stop_after(2))
    scaled_from(monkeypatch, 1024.0)
    assert train_model(task, tmp_path / "run", config).steps == 6


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    """The compiled stand-in of a GPU."""
    if shutil.which("g++") is None or torch.backends.cuda.is_built():
        pytest.skip("needs g++ and a torch without CUDA")
    path = tmp_path_factory.mktemp("library") / "stand_in_gpu.so"
    home = Path(torch.__file__).parent
    source = Path(__file__).with_name("stand_in_gpu.cpp")
    subprocess.run(
        ["g++", "-std=c++20", "-O0", "-shared", "-fPIC", source, f"-I{home}/include", f"-L{home}/lib",
         f"-Wl,-rpath,{home}/lib", "-lc10", "-ltorch_cpu", "-o", path], check=True,
    )  # fmt: skip
    return path


@pytest.mark.long
@pytest.mark.parametrize("case", CASES)
def test_all_tensors_fit_together_on_a_gpu_without_data_and_nothing_waits(library, task, case):
    command = [sys.executable, "-W", "ignore", "-m", "tests.train.stand_in_gpu", library, task, case]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert found.stdout == "done\n", found.stdout + found.stderr[-4000:]


@pytest.mark.long
def test_compiled_layers_learn_the_same_from_windows_of_any_length(tmp_path):
    """One program for the encoder, one for the decoder, each also for a pass of one row, and one for the source."""
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    task = make_task(tmp_path, train=48)
    settings = {"batch_size": 8, "dropout": 0.0, "full_share": 0.2}
    losses = []
    for compiled in (False, True):
        train_step, _ = make_train_step(task, compile=compiled, **settings)
        batches = zip(range(6), open_loader(open_dataset(task / "train"), train_step.config.stream), strict=False)
        losses.append([train_step(b, step=step, lr=1e-3, requests=Requests()).read()[:2] for step, b in batches])
    for eager, made in zip(*losses, strict=True):
        assert made == pytest.approx(eager, rel=1e-4)
    assert not counters["graph_break"]
    assert counters["stats"]["unique_graphs"] <= 9


@pytest.mark.cuda
@needs_gpu
@pytest.mark.parametrize(("precision", "near"), [(torch.float32, 1e-3), (torch.bfloat16, 0.02), (torch.float16, 0.02)])
def test_a_gpu_learns_what_a_cpu_learns(task, precision, near):
    scale = 1024.0 if precision == torch.float16 else 0.0
    cpu, batch = make_train_step(task)
    gpu, _ = make_train_step(task, device="cuda", dtype=precision, scale=scale)
    for step in range(3):
        here, there = (each(batch, step=step, lr=1e-3, requests=Requests()).read() for each in (cpu, gpu))
        assert there[0] == pytest.approx(here[0], rel=near)
        assert there[1] == pytest.approx(here[1], rel=10 * near)


@pytest.mark.cuda
@needs_gpu
def test_torch_itself_finds_nothing_that_waits_in_a_step(task):
    train_step, batch = make_train_step(task, device="cuda", dtype=torch.float16, scale=2.0, spec_augment=True, ema=0.9)
    train_step(batch, step=0, lr=1e-3, requests=Requests()).read()
    torch.cuda.set_sync_debug_mode("error")
    try:
        result = train_step(batch, step=1, lr=1e-3, requests=Requests())
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert result.ready is not None
    assert not result.read()[2]


@pytest.mark.cuda
@needs_gpu
@pytest.mark.parametrize("window", ["full", "short", "borrowed"])
def test_a_gpu_says_what_a_cpu_says(task, window):
    loaded = load_whisper(str(task / "tiny"))
    data = open_dataset(task / "train")
    batches = [
        batch for _, batch in zip(range(2), open_loader(data, tiny_config(task, augment=()).stream), strict=False)
    ]
    found = []
    for device in ("cpu", "cuda"):
        loaded.model.to(device)
        found.append(evaluate_model(
            loaded, batches, Labeler(loaded.tokenizer),
            EvaluationSettings(window=window, max_new_tokens=12, silence_source=find_silence_source([data]).waveform),
        ))  # fmt: skip
    assert found[1].loss == pytest.approx(found[0].loss, rel=1e-3)
    same = [a.hypothesis == b.hypothesis for a, b in zip(*(each.utterances for each in found), strict=True)]
    assert sum(same) >= 0.8 * len(same)


@pytest.mark.cuda
@needs_gpu
@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp32"])
def test_a_whole_run_on_a_gpu_is_stopped_and_goes_on(task, tmp_path, precision):
    config = tiny_config(task, precision=precision, average=2, ema=0.9, spec_augment=True, progress_every=2)
    with pytest.raises(StopRequested, match="stopped by SIGTERM"):
        train_model(task, tmp_path / "run", config, stop_after(3))
    train_model(task, tmp_path / "run", config)
    assert report_of(tmp_path / "run").steps == 6
