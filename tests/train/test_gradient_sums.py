"""Gradients are summed during the backward pass: the same sums on any number of ranks, sent in the same order."""

import os
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from tests.making import make_dataset
from tests.train.running import build_step, on_ranks
from whisper_shard.config.settings import replace_settings
from whisper_shard.config.stream import StreamConfig
from whisper_shard.config.train import TrainConfig
from whisper_shard.errors import TrainingError
from whisper_shard.train.gradient_sums import GradientSums, make_buckets
from whisper_shard.train.ranks import Ranks

CPU = torch.device("cpu")
SECONDS = np.random.default_rng(1).uniform(0.3, 4.0, 16).tolist()
SIZES = (3, 5, 2, 7, 4)
"""Widths of the layers of `Branches`: each of its buckets has a size of its own."""


def as_arrays(named_tensors):
    """Tensors in pipes would have to outlive their process: send arrays."""
    return {name: tensor.detach().numpy().copy() for name, tensor in named_tensors if tensor is not None}


class Branches(nn.Module):
    """Layers beside each other, used in any order and not always all."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(2, size) for size in SIZES)
        with torch.no_grad():
            for number, parameter in enumerate(self.parameters()):
                parameter.copy_(torch.linspace(-1, 1, parameter.numel()).view_as(parameter) + number)

    def forward(self, inputs, order):
        return sum(self.layers[number](inputs).square().sum() for number in order)


PASSES = [  # of each rank, the layers that each pass uses
    [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0]],
    [[2, 0, 4, 1, 3]],
    [],
    [[1, 1, 3], [0, 2], [4, 0]],
]


def inputs_of(rank, number):
    return torch.tensor([[1.0 + rank, 0.5 - number]])


def expected_sums():
    """The sums of all gradients, computed by autograd alone."""
    model = Branches()
    for rank, passes in enumerate(PASSES):
        for number, order in enumerate(passes):
            model(inputs_of(rank, number), order).backward()
    return as_arrays((name, parameter.grad) for name, parameter in model.named_parameters())


def sum_branches(ranks, spoil=None):
    """Take two equal steps, and return the sums, and the sizes of what was sent in each step and pass."""
    model = Branches()
    sums = GradientSums(list(model.parameters()), ranks, bucket_elements=6)
    sent, steps = record_sums(), []
    for _ in range(2):
        in_passes = []
        sums.clear()
        for number, order in enumerate(PASSES[ranks.rank]):
            if number == len(PASSES[ranks.rank]) - 1:
                sums.start_last_pass()
            if spoil is not None:
                spoil(model, number)
            model(inputs_of(ranks.rank, number), order).backward()
            in_passes.append(sums.num_sent)
        sums.finish()
        steps.append((as_arrays((name, p.grad) for name, p in model.named_parameters()), sent[:], in_passes))
        sent.clear()
    assert all(p.grad is view for b in sums.buckets for p, view in zip(b.parameters, b.views, strict=True))
    return steps


def record_sums():
    """Note the size of each sum over ranks that starts from now on."""
    sent, all_reduce = [], torch.distributed.all_reduce

    def note(tensor, **options):
        sent.append(tensor.numel())
        return all_reduce(tensor, **options)

    torch.distributed.all_reduce = note
    return sent


def test_sums_are_right_and_sent_in_one_order_with_any_number_of_passes():
    results, expected = on_ranks(4, sum_branches), expected_sums()
    sizes = [bucket.flat.numel() for bucket in make_buckets(list(Branches().parameters()), 6)]
    assert len(set(sizes)) == len(sizes) > 3
    for steps in results:
        for sums, sent, _ in steps:
            assert sent == sizes, "the same order on every rank"
            for name, gradient in expected.items():
                np.testing.assert_allclose(sums[name], gradient, rtol=1e-5, err_msg=name)
    assert [steps[1][2] for steps in results] == [
        [0, len(sizes)],  # nothing before the last pass, all within it
        [len(sizes)],
        [],
        [0, 0, 1],  # the last layer is complete, the one before it has no gradient in this pass
    ]


def take_gradients_away(model, number):
    if number == 1:
        model.zero_grad(set_to_none=True)


def test_gradients_that_other_code_sets_to_none_start_from_zero():
    expected = Branches()
    for rank, passes in enumerate(PASSES[:2]):
        own = Branches()
        for number, order in enumerate(passes):
            take_gradients_away(own, number)
            own(inputs_of(rank, number), order).backward()
        for total, parameter in zip(expected.parameters(), own.parameters(), strict=True):
            total.grad = parameter.grad if total.grad is None else total.grad + parameter.grad
    for steps in on_ranks(2, sum_branches, take_gradients_away):
        for sums, _, _ in steps:
            for name, parameter in expected.named_parameters():
                np.testing.assert_allclose(sums[name], parameter.grad.numpy(), rtol=1e-5, err_msg=name)


def leave_before_the_sum(ranks):
    model = Branches()
    sums = GradientSums(list(model.parameters()), ranks, bucket_elements=6)
    sums.clear()
    sums.start_last_pass()
    if ranks.rank == 1:
        os._exit(1)
    model(inputs_of(0, 0), [0, 1, 2, 3, 4]).backward()
    sums.finish()


def test_rank_that_is_lost_during_the_sums_is_one_line():
    message, nothing = on_ranks(2, leave_before_the_sum)
    assert nothing is None
    assert message.startswith("rank 0 of 2 lost contact with another rank, killed or failed (")
    assert message.endswith("run the same command again: training goes on from the last checkpoint")
    assert "\n" not in message


def add_twice(ranks):
    model = Branches()
    sums = GradientSums(list(model.parameters()), ranks, bucket_elements=6)
    sums.clear()
    sums.start_last_pass()
    model(inputs_of(0, 0), [0, 1, 2, 3, 4]).backward()
    with pytest.raises(RuntimeError, match=r"a parameter of shape \(4,?.*\) got a gradient after its bucket was sent"):
        model(inputs_of(0, 0), [4]).backward()
    sums.finish()
    return "raised"


def test_gradient_that_comes_after_its_bucket_is_an_error():
    assert on_ranks(2, add_twice) == ["raised"] * 2


def test_one_rank_has_no_buckets_and_gradients_of_its_own():
    model = Branches()
    sums = GradientSums(list(model.parameters()), Ranks())
    sums.start_last_pass()
    model(inputs_of(0, 0), [0]).backward()
    sums.finish()
    assert not sums.buckets
    assert model.layers[0].weight.grad is not None
    sums.clear()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_buckets_hold_one_dtype_last_parameter_first():
    parameters = [nn.Parameter(torch.ones(2, 3, dtype=dtype)) for dtype in (torch.float32, torch.bfloat16)]
    parameters += [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(9))]
    buckets = make_buckets(parameters, 8)
    assert [[p.numel() for p in bucket.parameters] for bucket in buckets] == [[9], [1, 2], [6], [6]]
    assert [bucket.flat.dtype for bucket in buckets] == [torch.float32, torch.float32, torch.bfloat16, torch.float32]
    assert [view.shape for view in buckets[2].views] == [(2, 3)]


def test_gradients_that_do_not_fit_are_an_error():
    huge = nn.Parameter(torch.ones(1).expand(2**46))
    message = r"the gradients, 281475.0 GB, do not fit into the memory of cpu; try --lora-rank 8"
    with pytest.raises(TrainingError, match=message):
        GradientSums([huge], Ranks(rank=0, world=2))


@dataclass(frozen=True, kw_only=True)
class Steps:
    """What a rank has made of a few optimizer steps."""

    weights: dict
    """After the last step."""
    gradients: dict
    """Of the last step."""
    num_buckets: int
    sent_early: int
    """Buckets sent before the end of the last pass."""
    sent_at_failure: tuple[int, ...]
    """Buckets sent when memory ran out."""
    num_passes: int


def take_steps(ranks, model_folder, dataset, settings, *, loss_scale=None, out_of_memory=False):
    """Take three optimizer steps of 16 utterances with a small Whisper in many buckets."""
    from whisper_shard.stream.loader import open_loader
    from whisper_shard.train.global_batch import Requests
    from whisper_shard.train.windows import PassLimit

    config = replace_settings(TrainConfig(), {"batch_size": 16, "micro_batch": 4, "dropout": 0.0, **settings})
    step = build_step(ranks, model_folder, config, loss_scale=loss_scale)
    step.gradients = sums = GradientSums(step.parameters, ranks, bucket_elements=4000)
    if ranks.world > 1:
        step.limit = PassLimit(utterances=1 + 3 * ranks.rank)
    failures: list[int] = []
    if out_of_memory and ranks.rank == 1:
        step.limit = PassLimit(utterances=16)
        run_out_in_the_last_pass(step.trainable.network, sums, failures)
    finish, early = sums.finish, []
    sums.finish = lambda: (early.append(sums.num_sent), finish())
    stream = StreamConfig(batch_size=16, workers=0, augment=())
    batches = iter(open_loader(dataset, stream, rank=ranks.rank, world=ranks.world))
    for number in range(3):
        result = step(next(batches), step=number, lr=1e-3, requests=Requests())
        assert not result.read()[2]
    model = step.trainable.model
    return Steps(
        weights=as_arrays(model.named_parameters()),
        gradients=as_arrays((name, p.grad) for name, p in model.named_parameters()),
        num_buckets=len(sums.buckets),
        sent_early=early[-1],
        sent_at_failure=tuple(failures),
        num_passes=len(result.passes),
    )


def run_out_in_the_last_pass(network, sums, failures):
    """Raise an error of memory near the end of the backward pass of the last pass, as long as passes are large."""

    def watch(_module, _inputs, output):
        if len(output) > 2 and output.requires_grad:
            output.register_hook(run_out)

    def run_out(_gradient):
        if sums._num_missing is not None:
            failures.append(sums.num_sent)
            raise torch.OutOfMemoryError("tried to allocate 2 GiB")

    network.model.model.encoder.conv2.register_forward_hook(watch)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("sums") / "train", SECONDS, per_shard=16)


def assert_same_steps(found, expected):
    for name, gradient in expected.gradients.items():
        np.testing.assert_allclose(found.gradients[name], gradient, rtol=2e-3, atol=2e-5, err_msg=name)
    for name, weight in expected.weights.items():
        np.testing.assert_allclose(found.weights[name], weight, rtol=0, atol=3e-4, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "loss_scale"),
    [
        ({"ema": 0.9, "gradient_checkpointing": True}, None),
        ({"freeze_encoder": True}, 1024.0),
        ({"lora_rank": 4}, None),
        ({}, None),
    ],
    ids=["checkpointing", "frozen", "lora", "plain"],
)
def test_ranks_give_the_weights_of_one(tiny_folder, dataset, settings, loss_scale):
    inputs = (tiny_folder, dataset, settings)
    alone = on_ranks(1, partial(take_steps, loss_scale=loss_scale), *inputs)[0]
    world = 4 if not settings else 2
    for result in on_ranks(world, partial(take_steps, loss_scale=loss_scale), *inputs):
        assert result.sent_early == result.num_buckets > 2, "every bucket was sent during the backward pass"
        assert_same_steps(result, alone)


@pytest.mark.slow
def test_memory_that_runs_out_after_buckets_were_sent_changes_no_sum(tiny_folder, dataset):
    inputs = (tiny_folder, dataset, {"window": "full"})
    alone = on_ranks(1, take_steps, *inputs)[0]
    others, failed = on_ranks(2, partial(take_steps, out_of_memory=True), *inputs)
    assert len(failed.sent_at_failure) == 2, "passes of 8, 4 and 2"
    assert 0 < failed.sent_at_failure[0] < failed.num_buckets
    assert failed.num_passes == 4
    assert_same_steps(failed, alone)
    assert_same_steps(others, alone)
