"""Sharded over ranks, a run learns what one rank learns, and goes on sharded otherwise or not at all."""

import signal
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import torch

from tests.making import make_dataset
from tests.train.running import (
    Kill,
    build_step,
    final_weights,
    lasting_metrics,
    launch,
    on_ranks,
    report_of,
    tiny_config,
)
from tests.train.test_gradient_sums import as_arrays
from whisper_shard.config.settings import replace_settings
from whisper_shard.config.stream import StreamConfig
from whisper_shard.config.train import TrainConfig
from whisper_shard.train.run.checkpoint import checkpoint_path, list_checkpoints

CPU = torch.device("cpu")
SECONDS = np.random.default_rng(1).uniform(0.3, 4.0, 16).tolist()


# -- steps


@dataclass(frozen=True, kw_only=True)
class Steps:
    """What a rank has made of a few optimizer steps."""

    weights: dict
    """Whole, after the last step."""
    average: dict
    """Whole, if there is one."""
    norm: float
    """Of the last gradient."""
    num_passes: int
    """Passes with utterances of the last step."""
    num_empty: int
    """Empty passes of all steps."""
    shares: tuple[float, float, float]
    """Share of all weights, gradients and moments that this rank holds."""
    gathered: tuple[int, ...]
    """Layers whose weights are whole while each layer computes, and after the last step."""


def take_steps(ranks, model_folder, dataset, settings, *, loss_scale=None):
    """Take three optimizer steps of 16 utterances."""
    from whisper_shard.model.sharded import own_rows, whole_tensor
    from whisper_shard.stream.loader import open_loader
    from whisper_shard.train.global_batch import Requests
    from whisper_shard.train.sharding import Sharding
    from whisper_shard.train.windows import PassLimit

    config = replace_settings(TrainConfig(), {"batch_size": 16, "micro_batch": 4, "dropout": 0.0, **settings})
    silence = torch.rand(1, 8000, generator=torch.Generator().manual_seed(0)) * 1e-3
    source = silence if config.window.borrows_silence else None
    step = build_step(ranks, model_folder, config, loss_scale=loss_scale, silence_source=source)
    trainable, model = step.trainable, step.trainable.model
    empty, gathered = [], []
    if ranks.world > 1:
        step.limit = PassLimit(utterances=1 + 3 * ranks.rank)
        run_empty_pass = Sharding.run_empty_pass
        Sharding.run_empty_pass = lambda self: (empty.append(1), run_empty_pass(self))[1]
    layers = [*model.model.encoder.layers, *model.model.decoder.layers]

    def count_gathered():
        return sum(not hasattr(next(layer.parameters()), "device_mesh") for layer in layers)

    for layer in layers:
        layer.register_forward_pre_hook(lambda *_: gathered.append(count_gathered()))
    stream = StreamConfig(batch_size=16, workers=0, augment=())
    batches = iter(open_loader(dataset, stream, rank=ranks.rank, world=ranks.world))
    for number in range(3):
        result = step(next(batches), step=number, lr=1e-3, requests=Requests())
        _, norm, is_skipped = result.read()
        assert not is_skipped
    gathered = (*gathered[-len(layers) :], count_gathered())
    trained = trainable.parameters
    moments = [trainable.optimizer.state[p]["exp_avg"] for p in trained]
    shares = tuple(
        sum(own_rows(tensor).numel() for tensor in tensors) / sum(tensor.numel() for tensor in tensors)
        for tensors in (trained, [p.grad for p in trained], moments)
    )
    average = trainable.average.weights if trainable.average else {}
    return Steps(
        weights=as_arrays((name, whole_tensor(p)) for name, p in model.named_parameters()),
        average=as_arrays((name, whole_tensor(mean)) for name, mean in average.items()),
        norm=norm,
        num_passes=len(result.passes),
        num_empty=len(empty),
        shares=shares,
        gathered=gathered,
    )


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("sharding") / "train", SECONDS, per_shard=16)


def assert_same_steps(found, expected):
    assert found.norm == pytest.approx(expected.norm, rel=1e-3)
    for tensors, others in ((found.weights, expected.weights), (found.average, expected.average)):
        assert tensors.keys() == others.keys()
        for name, weight in others.items():
            np.testing.assert_allclose(tensors[name], weight, rtol=0, atol=3e-4, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shard", "world", "settings", "loss_scale"),
    [
        ("states", 2, {"ema": 0.9, "gradient_checkpointing": True, "full_share": 0.25}, None),
        ("all", 2, {"freeze_encoder": True}, 1024.0),
        ("all", 4, {"lora_rank": 2}, None),
        ("all", 4, {}, None),
        pytest.param("states", 4, {}, None, marks=pytest.mark.long),
        pytest.param(
            "all", 2, {"ema": 0.9, "gradient_checkpointing": True, "full_share": 0.25}, None, marks=pytest.mark.long
        ),
        pytest.param("states", 2, {"freeze_encoder": True}, 1024.0, marks=pytest.mark.long),
        pytest.param("states", 4, {"lora_rank": 2}, None, marks=pytest.mark.long),
    ],
)
def test_ranks_give_the_weights_of_one(tiny_folder, dataset, shard, world, settings, loss_scale):
    work = partial(take_steps, loss_scale=loss_scale)
    alone = on_ranks(1, work, tiny_folder, dataset, settings)[0]
    results = on_ranks(world, work, tiny_folder, dataset, {**settings, "shard": shard})
    assert sum(result.num_empty for result in results) > 3, "in every step one rank has fewer passes than another"
    for result in results:
        assert_same_steps(result, alone)
        during, after = result.gathered[:-1], result.gathered[-1]
        assert after == 0
        assert set(during) == ({1} if shard == "all" else {len(during)})
    for shares in zip(*(result.shares for result in results), strict=True):
        assert sum(shares) == pytest.approx(1)
        assert max(shares) < 1 / world + 0.15


def run_out_of_memory(ranks, model_folder, dataset):
    """Take a step in which rank 1 runs out of memory; return the error."""
    from whisper_shard.model.forward import SpeechLoss

    forward = SpeechLoss.forward

    def run_out(self, waveforms, *args, **kwargs):
        if len(waveforms) > 1:
            raise torch.OutOfMemoryError("tried to allocate 2 GiB")
        return forward(self, waveforms, *args, **kwargs)

    if ranks.rank == 1:
        SpeechLoss.forward = run_out
    return take_steps(ranks, model_folder, dataset, {"shard": "all", "window": "full"})


def test_a_pass_that_does_not_fit_ends_training_on_all_ranks(tiny_folder, dataset):
    waiting, failed = on_ranks(2, run_out_of_memory, tiny_folder, dataset)
    assert failed.startswith("4 utterances in windows of 30 s do not fit into the memory of cpu, and with --shard")
    assert failed.endswith("run the same command again with --micro-batch 2")
    assert "rank 0 of 2 lost contact with another rank" in waiting


def test_moments_of_8_bits_are_not_sharded(tiny_folder, dataset):
    message = "--shard all with --optimizer adamw-8bit: its moments cannot be spread over ranks; use one of the two"
    assert on_ranks(2, take_steps, tiny_folder, dataset, {"shard": "all", "optimizer": "adamw-8bit"}) == [message] * 2


# -- runs


def steady_config(task, **changes):
    """Settings whose result does not depend on the number of ranks, but for rounding."""
    settings = {"dropout": 0.0, "batch_size": 4, "ema": 0.9, "average": 2, "watch_every": 1, "progress_every": 1}
    return tiny_config(task, **{**settings, **changes})


@pytest.fixture(scope="module")
def alone(task, tmp_path_factory):
    """The run of one rank."""
    run = tmp_path_factory.mktemp("sharding") / "alone"
    assert launch(task, run, steady_config(task))[0].exit_code == 0
    return run


def assert_same_run(run, other):
    ours, theirs = final_weights(run), final_weights(other)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=0, atol=2e-3, msg=name)
    lines, others = lasting_metrics(run), lasting_metrics(other)
    assert [(line["kind"], line["step"]) for line in lines] == [(line["kind"], line["step"]) for line in others]
    for line, expected in zip(lines, others, strict=True):
        numbers = {name: pytest.approx(value, rel=2e-4) for name, value in expected.items() if name in ("loss", "wer")}
        assert {name: line[name] for name in numbers} == numbers
    assert report_of(run).chosen == report_of(other).chosen


@pytest.mark.slow
def test_a_run_goes_on_sharded_otherwise_and_unsharded(task, alone, tmp_path):
    run = tmp_path / "run"
    ends = launch(task, run, steady_config(task, shard="all"), world=2, kill=Kill(step=4))
    assert ends[0].exit_code == -signal.SIGKILL
    newest = checkpoint_path(run / "checkpoints", list_checkpoints(run / "checkpoints")[-1])
    names = {path.name for path in newest.iterdir()}
    assert names >= {f"{group}-{n}-of-2.safetensors" for group in ("model", "optimizer", "average") for n in (1, 2)}
    assert names & {"random-1-of-2.safetensors", "random-2-of-2.safetensors"} == {"random-1-of-2.safetensors"}
    ends = launch(task, run, steady_config(task, shard="states"), world=4, kill=Kill(step=6, signal=signal.SIGTERM))
    assert {end.exit_code for end in ends} == {75}
    assert [end.exit_code for end in launch(task, run, steady_config(task))] == [0]
    assert_same_run(run, alone)


@pytest.mark.slow
def test_a_run_goes_on_sharded_after_a_beginning_of_one_rank(task, alone, tmp_path):
    run = tmp_path / "run"
    assert launch(task, run, steady_config(task), kill=Kill(step=3))[0].exit_code == -signal.SIGKILL
    ends = launch(task, run, steady_config(task, shard="all"), world=2)
    assert [end.exit_code for end in ends] == [0, 0], ends
    assert_same_run(run, alone)
