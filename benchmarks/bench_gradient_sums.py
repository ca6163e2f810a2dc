"""What it costs to bring the gradients of whisper-large-v3 into the pieces that are summed over ranks, on one CPU core.

    python -m benchmarks.bench_gradient_sums

`buckets` is `train/gradient_sums.py`; `flatten` is what was done before: all gradients of a step flattened after the
backward pass, and the sums copied back. The backward pass only makes a gradient of each parameter's shape, and the sum
is over a group of one process: what remains is allocation, accumulation and copies. Needs 8 GB of memory. Writes
benchmarks/results/<date>-gradient-sums.json.
"""

import tempfile
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers import WhisperConfig, WhisperForConditionalGeneration

from benchmarks.bench_memory import LARGE_V3
from benchmarks.machine import write_result
from whisper_shard.train.gradient_sums import BUCKET_ELEMENTS, GradientSums
from whisper_shard.train.ranks import Ranks

STEPS = 3
PASSES = (1, 2)
"""Numbers of passes of a step."""


class MakeGradient(torch.autograd.Function):
    """A number that depends on a parameter, whose gradient is ones."""

    @staticmethod
    def forward(ctx: Any, parameter: Tensor) -> Tensor:
        """Return a number, whatever the parameter is."""
        ctx.shape = parameter.shape
        return torch.zeros(())

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Tensor:
        """Return a new tensor of the shape of the parameter."""
        return torch.ones(ctx.shape)


def main() -> None:
    """Measure both ways, and write seconds a step."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=0, world_size=1)
        parameters = make_parameters()
        flatten = {
            num_passes: measure(lambda: step_with_flatten(parameters, num_passes))  # noqa: B023
            for num_passes in PASSES
        }
        drop_gradients(parameters)
        sums = GradientSums(parameters, Ranks(world=2))
        buckets = {
            num_passes: measure(lambda: step_with_buckets(parameters, sums, num_passes))  # noqa: B023
            for num_passes in PASSES
        }
        dist.destroy_process_group()
    result = {
        "parameters": len(parameters),
        "gradient_bytes": 4 * sum(p.numel() for p in parameters),
        "steps": STEPS,
        "cpu_seconds_of_a_step_by_passes": {"flatten": flatten, "buckets": buckets},
    }
    write_result("gradient-sums", f"python -m {__spec__.name}", result, "torch", "transformers")


def make_parameters() -> list[nn.Parameter]:
    """Return parameters of all shapes of the model; each has the memory of one number."""
    with torch.device("meta"):
        model = WhisperForConditionalGeneration(WhisperConfig(**LARGE_V3))
    return [nn.Parameter(torch.ones(1).expand(p.shape)) for p in model.parameters() if p.requires_grad]


def measure(step: Callable[[], None]) -> dict[str, Any]:
    """Return CPU seconds of some steps and their median, after one that is not measured."""
    step()
    seconds = []
    for _ in range(STEPS):
        start = time.process_time()
        step()
        seconds.append(time.process_time() - start)
    return {"median": median(seconds), "all": seconds}


def run_pass(parameters: list[nn.Parameter]) -> None:
    """Add ones to the gradient of each parameter, as a backward pass does."""
    losses: list[Tensor] = [MakeGradient.apply(parameter) for parameter in parameters]
    torch.stack(losses).sum().backward()


def drop_gradients(parameters: list[nn.Parameter]) -> None:
    """Free all gradients."""
    for parameter in parameters:
        parameter.grad = None


def step_with_flatten(parameters: list[nn.Parameter], num_passes: int) -> None:
    """Sum flattened copies of the gradients, and copy the sums back."""
    drop_gradients(parameters)
    for _ in range(num_passes):
        run_pass(parameters)
    bucket: list[Tensor] = []
    for parameter in parameters:
        assert parameter.grad is not None
        bucket.append(parameter.grad)
        if parameter is parameters[-1] or sum(g.numel() for g in bucket) >= BUCKET_ELEMENTS:
            sum_flattened(bucket)
            bucket = []


def sum_flattened(gradients: list[Tensor]) -> None:
    """Replace gradients by their sums, by way of a flat copy."""
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    parts = torch.split(flat, [gradient.numel() for gradient in gradients])
    torch._foreach_copy_(gradients, [part.view_as(own) for own, part in zip(gradients, parts, strict=True)])


def step_with_buckets(parameters: list[nn.Parameter], sums: GradientSums, num_passes: int) -> None:
    """Sum the gradients where they are."""
    sums.clear()
    for number in range(num_passes):
        if number == num_passes - 1:
            sums.start_last_pass()
        run_pass(parameters)
    sums.finish()


if __name__ == "__main__":
    main()
