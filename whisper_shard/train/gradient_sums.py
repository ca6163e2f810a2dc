"""Sums of gradients over ranks, sent while the backward pass of the last pass of a step still runs.

Each gradient is a view of a flat bucket that lives as long as the run, so nothing is copied to send it. In the last
pass of a step, a bucket is sent once all its gradients are complete and all earlier buckets are sent: the order is the
same on all ranks, however many passes each of them has. What is not sent when the last pass ends is sent then: all of
it on a rank without a pass, elsewhere whatever waits for a parameter that had no gradient (a layer left out by
stochastic depth). So ranks may have different numbers of passes, and one that runs out of memory starts over alone.

Source: Li et al., PyTorch Distributed: Experiences on Accelerating Data Parallel Training, section 3.2,
https://arxiv.org/abs/2006.15704.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn

from whisper_shard.errors import TrainingError
from whisper_shard.model.device import is_out_of_memory
from whisper_shard.train.ranks import Ranks, explain_lost_rank

BUCKET_ELEMENTS = 16 * 2**20
"""A bucket has about this many numbers (64 MB)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """Gradients that are sent together."""

    parameters: tuple[nn.Parameter, ...]
    """In the order in which the backward pass usually completes their gradients."""
    flat: Tensor
    """(N,) all gradients, one behind the other."""
    views: tuple[Tensor, ...]
    """The part of ``flat`` that is the gradient of each parameter, in its shape."""

    def attach(self) -> None:
        """Make the views the gradients of the parameters, with the values they have."""
        for parameter, view in zip(self.parameters, self.views, strict=True):
            parameter.grad = view

    def detach(self) -> None:
        """Leave the parameters without gradients; the views keep their values."""
        for parameter in self.parameters:
            parameter.grad = None

    def take_over(self) -> None:
        """Copy gradients that other code has replaced into the bucket; one that it has set to None counts as zero."""
        for parameter, view in zip(self.parameters, self.views, strict=True):
            if parameter.grad is None:
                view.zero_()
            elif parameter.grad is not view:
                view.copy_(parameter.grad)
        self.attach()


class GradientSums:
    """Replaces the gradients of a step by their sums over all ranks; a missing gradient counts as zero.

    A step calls `clear`, runs its passes but for one, calls `start_last_pass`, runs that, and calls `finish`. With one
    rank, gradients are what they are without this class.

    Args:
        parameters: What is trained; the same on all ranks, in the same order.
        ranks: The processes that train together.
        bucket_elements: A bucket is full with so many numbers or more.

    Raises:
        TrainingError: The gradients do not fit into memory.
    """

    def __init__(
        self, parameters: Sequence[nn.Parameter], ranks: Ranks, *, bucket_elements: int = BUCKET_ELEMENTS
    ) -> None:
        self.ranks = ranks
        self.parameters = parameters
        self.buckets = make_buckets(parameters, bucket_elements) if ranks.world > 1 else []
        self._sending: list[dist.Work] = []  # of the first buckets, as many as are sent
        self._num_kept = 0  # the first buckets, which were sent before the step started over
        self._num_missing: list[int] | None = None  # of each bucket, gradients of the last pass; None: an earlier pass
        for number, bucket in enumerate(self.buckets):
            for parameter in bucket.parameters:
                hook = partial(self._after_accumulation, number)
                parameter.register_post_accumulate_grad_hook(hook)  # type: ignore[no-untyped-call]

    @property
    def num_sent(self) -> int:
        """The first buckets of this step, which are sent already."""
        return len(self._sending)

    def clear(self) -> None:
        """Set all gradients to zero, before the first pass of a step and where a step starts over.

        A step may start over because memory ran out in its last pass, after some buckets were sent. What this rank has
        added to them was complete, and other ranks have added it to theirs: sent again, it would count twice, and these
        ranks would wait for other buckets. So these sums are kept. The passes compute their gradients once more, since
        the others depend on them, and throw them away. Passes of another size draw other masks of dropout: then the
        kept sums are those of the earlier masks, which are as good.
        """
        self._num_kept = self.num_sent
        self._num_missing = None
        for bucket in self.buckets[: self._num_kept]:
            bucket.detach()  # the views may be written by the sum that is under way
        for bucket in self.buckets[self._num_kept :]:
            bucket.flat.zero_()
            bucket.attach()
        if not self.buckets:
            for parameter in self.parameters:
                parameter.grad = None

    def start_last_pass(self) -> None:
        """Send each bucket as soon as the pass that follows has completed it."""
        self._num_missing = [len(bucket.parameters) for bucket in self.buckets]

    def finish(self) -> None:
        """Send what is left and wait until every gradient is its sum over all ranks.

        Raises:
            TrainingError: Another rank is gone.
        """
        while self.num_sent < len(self.buckets):
            self._send_next()
        with explain_lost_rank(self.ranks):
            for work in self._sending:
                work.wait()
        for bucket in self.buckets[: self._num_kept]:
            bucket.attach()
        self._sending, self._num_kept, self._num_missing = [], 0, None

    def _after_accumulation(self, number: int, parameter: nn.Parameter) -> None:
        """Called when a pass has added to the gradient of a parameter.

        Raises:
            TrainingError: Another rank is gone.
        """
        if number < self._num_kept:
            parameter.grad = None
            return
        if number < self.num_sent:
            raise RuntimeError(
                f"a parameter of shape {tuple(parameter.shape)} got a gradient after its bucket was sent: a pass must "
                "add to each gradient once (checkpointing with use_reentrant=True adds several times)"
            )
        if self._num_missing is not None:
            self._num_missing[number] -= 1
            while self.num_sent < len(self.buckets) and self._num_missing[self.num_sent] == 0:
                self._send_next()

    def _send_next(self) -> None:
        bucket = self.buckets[self.num_sent]
        bucket.take_over()
        with explain_lost_rank(self.ranks):
            work = dist.all_reduce(bucket.flat, async_op=True)
        assert work is not None, "every process that trains is in the default group"
        self._sending.append(work)


def make_buckets(parameters: Sequence[nn.Parameter], bucket_elements: int) -> list[Bucket]:
    """Return buckets of zeros for the gradients of all parameters, last parameter first.

    Modules are registered in the order in which the forward pass uses them, and the backward pass goes the other way.

    Args:
        parameters: What is trained.
        bucket_elements: A bucket is full with so many numbers or more; it has at least one parameter, and parameters of
            one dtype and device.

    Raises:
        TrainingError: The gradients do not fit into memory.
    """
    groups: list[list[nn.Parameter]] = []
    for parameter in reversed(parameters):
        group = groups[-1] if groups else []
        fits = sum(p.numel() for p in group) < bucket_elements
        if group and fits and (group[0].dtype, group[0].device) == (parameter.dtype, parameter.device):
            group.append(parameter)
        else:
            groups.append([parameter])
    try:
        return [_make_bucket(group) for group in groups]
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        size = sum(p.numel() * p.element_size() for p in parameters) / 1e9
        raise TrainingError(
            f"the gradients, {size:.1f} GB, do not fit into the memory of {parameters[0].device}; "
            "try --lora-rank 8, --freeze-encoder or a smaller model"
        ) from error


def _make_bucket(parameters: Sequence[nn.Parameter]) -> Bucket:
    sizes = [parameter.numel() for parameter in parameters]
    flat = torch.zeros(sum(sizes), dtype=parameters[0].dtype, device=parameters[0].device)
    views = [part.view(p.shape) for part, p in zip(torch.split(flat, sizes), parameters, strict=True)]
    return Bucket(parameters=tuple(parameters), flat=flat, views=tuple(views))
