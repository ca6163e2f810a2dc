"""Cross-attention of the decoder over fixed encoder states, in the form that costs least.

`ProjectedCrossAttention` computes keys and values of all positions once, as Whisper usually does.
`AbsorbedCrossAttention` never computes them: queries are multiplied by the key projection and compared with the encoder
states themselves, and the weighted states are multiplied by the value projection. The sums are the same, in another
order. Each query then costs a product with the states in full width for every head, but no position is projected and
nothing is kept: for the few tokens of an utterance that is less work in float32 on a CPU. In bfloat16, where the
projections are cheap beside everything else, and on a GPU, projecting once is faster.

Source of the absorbed form: multi-head latent attention, arXiv:2405.04434, section 2.1.2.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from whisper_shard.inference.linear import join_heads, split_heads

KeysValues = tuple[Tensor, Tensor]
"""Keys and values of one layer, each (B, heads, positions, head width)."""
KeyValueProjection = tuple[Tensor, Tensor]
"""Fused key and value projections of one layer: weight (2 D, D) and bias (2 D,)."""


class CrossAttention(Protocol):
    """Cross-attention of a batch, for all layers."""

    def attend(self, layer: int, queries: Tensor) -> Tensor:
        """Return the attention output of queries (B, heads, L, head width), (B, L, D), before the output projection."""

    def select(self, rows: Tensor) -> "CrossAttention":
        """Return the same for some rows only."""


@dataclass(frozen=True, slots=True)
class ProjectedCrossAttention:
    """Keys and values of every layer, computed once."""

    layers: Sequence[KeysValues]
    """One entry a layer."""
    bias: Tensor | None = None
    """Attention bias of each position, (1, 1, 1, positions)."""

    def attend(self, layer: int, queries: Tensor) -> Tensor:
        """See `CrossAttention`."""
        keys, values = self.layers[layer]
        return join_heads(functional.scaled_dot_product_attention(queries, keys, values, attn_mask=self.bias))

    def select(self, rows: Tensor) -> "ProjectedCrossAttention":
        """See `CrossAttention`."""
        layers = [(keys.index_select(0, rows), values.index_select(0, rows)) for keys, values in self.layers]
        return ProjectedCrossAttention(layers, self.bias)


@dataclass(frozen=True, slots=True)
class AbsorbedCrossAttention:
    """The encoder states themselves, and the projections to absorb into queries and outputs."""

    states: Tensor
    """(B, T // 2, D)."""
    projections: Sequence[KeyValueProjection]
    """One entry a layer. The bias of keys is ignored: it adds the same to all scores of a query."""
    bias: Tensor | None = None
    """Attention bias of each position, (1, 1, 1, positions)."""

    def attend(self, layer: int, queries: Tensor) -> Tensor:
        """See `CrossAttention`."""
        weight, bias = self.projections[layer]
        batch, num_heads, length, width = queries.shape
        dim = num_heads * width
        key_weight, value_weight = weight.view(2, num_heads, width, dim)
        by_head = queries.transpose(0, 1).reshape(num_heads, batch * length, width)
        absorbed = (by_head @ key_weight).view(num_heads, batch, length, dim).transpose(0, 1).flatten(1, 2)
        # The heads are rows of one attention over the states, (B, 1, heads * L, D); the scale stays that of a head.
        mixed = functional.scaled_dot_product_attention(
            absorbed[:, None], self.states[:, None], self.states[:, None], attn_mask=self.bias, scale=width**-0.5
        )
        by_head = mixed.view(batch, num_heads, length, dim).transpose(0, 1).reshape(num_heads, batch * length, dim)
        outputs = (by_head @ value_weight.transpose(1, 2)).view(num_heads, batch, length, width)
        joined: Tensor = outputs.permute(1, 2, 0, 3).reshape(batch, length, dim)
        return joined + bias[dim:]  # attention weights sum to 1, so the bias of values comes out unchanged

    def select(self, rows: Tensor) -> "AbsorbedCrossAttention":
        """See `CrossAttention`."""
        return AbsorbedCrossAttention(self.states.index_select(0, rows), self.projections, self.bias)


class WatchedCrossAttention:
    """Another cross-attention, of which the weights of some heads are kept.

    Args:
        inner: Computes the outputs.
        states: Encoder states (B, T // 2, D).
        projections: One entry a layer.
        heads: Layer and head of those to keep.
    """

    def __init__(
        self,
        inner: CrossAttention,
        states: Tensor,
        projections: Sequence[KeyValueProjection],
        heads: Sequence[tuple[int, int]],
    ) -> None:
        self._inner, self._states, self._projections, self._heads = inner, states, projections, heads
        self.weights: dict[tuple[int, int], Tensor] = {}
        """(B, L, T // 2) by layer and head."""

    def attend(self, layer: int, queries: Tensor) -> Tensor:
        """See `CrossAttention`."""
        _, num_heads, _, width = queries.shape
        key_weight = self._projections[layer][0].view(2, num_heads, width, -1)[0]
        for number in (head for at, head in self._heads if at == layer):
            keys = self._states @ key_weight[number].t()  # without their bias, which adds the same to all scores
            scores = queries[:, number].float() @ keys.float().transpose(1, 2) * width**-0.5
            self.weights[layer, number] = scores.softmax(dim=-1)
        return self._inner.attend(layer, queries)

    def select(self, rows: Tensor) -> "WatchedCrossAttention":
        """See `CrossAttention`."""
        inner, states = self._inner.select(rows), self._states.index_select(0, rows)
        return WatchedCrossAttention(inner, states, self._projections, self._heads)


def prepare_cross_attention(
    states: Tensor, projections: Sequence[KeyValueProjection], num_heads: int, bias: Tensor | None = None
) -> CrossAttention:
    """Return the form of cross-attention that costs least for this device and dtype.

    Args:
        states: Encoder states (B, T // 2, D) in the dtype of matrix products.
        projections: One entry a layer.
        num_heads: Heads of the decoder.
        bias: Attention bias of each position, (1, 1, 1, T // 2); None: zero.
    """
    if states.device.type == "cpu" and states.dtype == torch.float32:
        return AbsorbedCrossAttention(states, projections, bias)
    projected = [split_heads(functional.linear(states, *projection), num_heads, parts=2) for projection in projections]
    return ProjectedCrossAttention([(keys.contiguous(), values.contiguous()) for keys, values in projected], bias)
