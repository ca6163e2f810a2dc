"""How the decoder of an evaluation listens: cross-attention over encoder states, in the form that costs least.

``Projected`` computes keys and values of all positions once, as every Whisper does. ``Folded`` never makes them: a
query is folded through the key matrix and compared with the encoder states themselves, and what they answer is passed
through the value matrix afterwards. The sums are the same, in another order. A query then costs as much as one
of each head over states of full width, but nothing is projected and nothing is kept: for the few tokens of an
utterance that is less work in float32 on a CPU. In bfloat16, whose products are cheap beside everything else,
and on a GPU, keys and values are.

Source of the folding: multi-head latent attention, arXiv:2405.04434, section 2.1.2.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from whisper_shard.inference.linear import join_heads, split_heads

KeysValues = tuple[Tensor, Tensor]
"""Keys and values of one layer, each (B, heads, positions, head width)."""


class Listening(Protocol):
    """Cross-attention of a batch."""

    def attend(self, layer: int, queries: Tensor) -> Tensor:
        """Return what queries (B, heads, L, head width) hear in a layer, (B, L, D), before its output matrix."""

    def select(self, rows: Tensor) -> "Listening":
        """Return the same for some rows only."""


@dataclass(frozen=True, slots=True)
class Projected:
    """Keys and values of every layer, computed once."""

    layers: list[KeysValues]
    """One entry a layer."""
    bias: Tensor | None = None
    """Added to the scores, (1, 1, 1, positions)."""

    def attend(self, layer: int, queries: Tensor) -> Tensor:
        """See `Listening`."""
        keys, values = self.layers[layer]
        return join_heads(functional.scaled_dot_product_attention(queries, keys, values, attn_mask=self.bias))

    def select(self, rows: Tensor) -> "Projected":
        """See `Listening`."""
        return Projected([(k.index_select(0, rows), v.index_select(0, rows)) for k, v in self.layers], self.bias)


@dataclass(frozen=True, slots=True)
class Folded:
    """The encoder states themselves, and the matrices to fold queries and answers through."""

    states: Tensor
    """(B, T // 2, D)."""
    matrices: list[tuple[Tensor, Tensor]]
    """Keys' and values' weight (2 D, D) and bias (2 D,) of each layer; a bias of keys would change no attention."""
    bias: Tensor | None = None
    """Added to the scores, (1, 1, 1, positions)."""

    def attend(self, layer: int, queries: Tensor) -> Tensor:
        """See `Listening`."""
        weight, bias = self.matrices[layer]
        batch, num_heads, length, width = queries.shape
        dim = num_heads * width
        keys, values = weight.view(2, num_heads, width, dim)
        by_head = queries.transpose(0, 1).reshape(num_heads, batch * length, width)
        folded = (by_head @ keys).view(num_heads, batch, length, dim).transpose(0, 1).flatten(1, 2)
        heard = functional.scaled_dot_product_attention(
            folded[:, None], self.states[:, None], self.states[:, None], attn_mask=self.bias, scale=width**-0.5
        )
        by_head = heard.view(batch, num_heads, length, dim).transpose(0, 1).reshape(num_heads, batch * length, dim)
        answers = (by_head @ values.transpose(1, 2)).view(num_heads, batch, length, width)
        joined: Tensor = answers.permute(1, 2, 0, 3).reshape(batch, length, dim)
        return joined + bias[dim:]

    def select(self, rows: Tensor) -> "Folded":
        """See `Listening`."""
        return Folded(self.states.index_select(0, rows), self.matrices, self.bias)


def listen(
    states: Tensor, matrices: list[tuple[Tensor, Tensor]], num_heads: int, bias: Tensor | None = None
) -> Listening:
    """Return the form of cross-attention that costs least here.

    Args:
        states: Encoder states (B, T // 2, D) in the compute format.
        matrices: As in `Folded`.
        num_heads: Of the decoder.
        bias: Added to the scores of each position, (1, 1, 1, T // 2); None: nothing.
    """
    if states.device.type == "cpu" and states.dtype == torch.float32:
        return Folded(states, matrices, bias)
    projections = [split_heads(functional.linear(states, *affine), num_heads, parts=2) for affine in matrices]
    return Projected([(keys.contiguous(), values.contiguous()) for keys, values in projections], bias)
