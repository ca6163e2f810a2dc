"""Weights, gradients and moments of the optimizer spread over the ranks, by torch's fully_shard (FSDP2).

Each rank keeps some rows of every tensor, and updates these. With ``--shard states`` all weights are gathered at the
beginning of a step; with ``--shard all`` those of a layer are, whenever it computes. Gradients are summed at the end of
each layer's backward pass, and each rank keeps the sums of its own rows.

A pass gathers and sums on all ranks together, so all of them make the same number of passes. One that has fewer rows
makes empty passes, whose gradients are zero. For the same reason a pass that does not fit into memory ends training:
the others wait in the middle of it.

Source: https://docs.pytorch.org/docs/stable/distributed.fsdp.fully_shard.html; the idea, ZeRO, arXiv:1910.02054.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from whisper_shard.model.forward import SpeechLoss
from whisper_shard.model.loss import IGNORE_INDEX
from whisper_shard.model.sharded import is_sharded
from whisper_shard.train.ranks import Ranks, explain_lost_rank
from whisper_shard.utterance import HOP_LENGTH

_EMPTY_SAMPLES = 2 * HOP_LENGTH  # the shortest window there is


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharding:
    """A network of which each rank keeps some rows."""

    network: SpeechLoss
    """The model and its loss."""
    parts: Sequence[Any]
    """The modules whose weights are gathered at once, an FSDPModule each: the network itself, for what is in no layer,
    and every layer."""
    keeps_weights: bool
    """Whether weights stay gathered during a step."""
    ranks: Ranks
    """The processes that train together."""

    def run_empty_pass(self) -> Tensor:
        """Run a pass forward with nothing to learn and return its loss, 0; its gradients are zero."""
        device = self.network.log_mel.filters.device
        token = torch.zeros(1, 1, dtype=torch.int64, device=device)
        loss, _ = self.network(
            torch.zeros(1, _EMPTY_SAMPLES, device=device),
            token,
            torch.full_like(token, IGNORE_INDEX),
            torch.zeros(1, dtype=torch.int64, device=device),
            seeds=(0,),
            kept=torch.zeros(0, dtype=torch.int64, device=device),
        )
        empty: Tensor = loss
        return empty

    @contextmanager
    def whole_weights(self) -> Iterator[None]:
        """Have all weights on every rank for the time; what is written to them is lost afterwards.

        All ranks must enter and leave together; in between each may compute on its own.

        Raises:
            TrainingError: Another rank is gone.
        """
        if not is_sharded(next(self.network.parameters())):  # they are whole already
            yield
            return
        with explain_lost_rank(self.ranks):
            for part in self.parts:
                part.set_reshard_after_forward(False, recurse=False)
                part.unshard()
        try:
            yield
        finally:
            for part in self.parts:
                part.reshard()
                part.set_reshard_after_forward(self._frees(part), recurse=False)

    def _frees(self, part: Any) -> bool:
        """Return whether the weights of a part are freed after its forward pass."""
        return not self.keeps_weights and part is not self.network


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardedGradients:
    """Gradients of a sharded network: sums over all ranks, of which each has its rows.

    Has the methods of `GradientSums`.
    """

    sharding: Sharding
    """The network."""
    parameters: Sequence[nn.Parameter]
    """What is trained."""

    def clear(self) -> None:
        """Forget all gradients, before the first pass of a step."""
        for parameter in self.parameters:
            parameter.grad = None
        if self.sharding.keeps_weights:
            self.sharding.parts[0].set_reshard_after_backward(False)

    def start_last_pass(self) -> None:
        """Free the weights that were gathered, layer by layer, in the pass that follows."""
        self.sharding.parts[0].set_reshard_after_backward(True)

    def finish(self) -> None:
        """Do nothing: every pass has summed what it found."""


def shard_network(network: SpeechLoss, shard: Literal["states", "all"], ranks: Ranks) -> Sharding:
    """Leave on this rank some rows of each weight of a network, in place; all ranks must call it together.

    Args:
        network: The same weights on all ranks, layers frozen and adapted already.
        shard: states: weights are whole during a step; all: only while they are used.
        ranks: The processes that train together, at least two.

    Raises:
        TrainingError: Another rank is gone.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    keeps_weights = shard == "states"
    model = network.model.model
    layers = (*model.encoder.layers, *model.decoder.layers)
    with explain_lost_rank(ranks):
        mesh = init_device_mesh(network.log_mel.filters.device.type, (ranks.world,))
        for layer in layers:
            fully_shard(layer, mesh=mesh, reshard_after_forward=not keeps_weights)
        # The rest is one part: the head is the embedding of tokens, and must be gathered and summed with it.
        fully_shard(network, mesh=mesh, reshard_after_forward=False)
        register_fsdp_forward_method(network, "encode_silence")
        sharding = Sharding(network=network, parts=(network, *layers), keeps_weights=keeps_weights, ranks=ranks)
        for part in sharding.parts:
            # Sums, not means: losses are divided by the tokens of all ranks. gloo has only sums.
            part.set_gradient_divide_factor(1.0)
            part.set_force_sum_reduction_for_comms(True)
        # The first pass must come through the network, or a layer would take itself for all there is.
        with torch.no_grad():
            sharding.run_empty_pass()
        for part in sharding.parts:
            part.reshard()
    return sharding
