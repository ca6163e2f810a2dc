"""Whisper's decoder for evaluation: weights prepared once, caches of fixed size, rows at different places.

The same layers as Hugging Face's, written out over plain matrices. What that buys: encoder states serve loss and
decoding in the form that costs least (`listening`); a step touches no cache objects and builds no masks but one; and
each row of a batch may stand at its own position, which lets finished rows leave and drafts be kept to where they fit.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from whisper_shard.inference.cross_attention import KeysValues, Listening, listen
from whisper_shard.inference.linear import Affine, affine, join_heads, linear, split_heads, stack


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderLayer:
    """One decoder layer as matrices in the compute format; norms stay float32."""

    self_norm: Affine
    """Before self-attention."""
    self_in: Affine
    """Queries, keys and values in one matrix, (3 D, D)."""
    self_out: Affine
    """Behind self-attention."""
    cross_norm: Affine
    """Before cross-attention."""
    cross_query: Affine
    """Queries of cross-attention."""
    cross_in: tuple[Tensor, Tensor]
    """Keys and values of cross-attention in one matrix, (2 D, D)."""
    cross_out: Affine
    """Behind cross-attention."""
    final_norm: Affine
    """Before the feed-forward block."""
    widen: Affine
    """First matrix of the feed-forward block."""
    narrow: Affine
    """Second matrix of the feed-forward block."""


@dataclass(frozen=True, slots=True)
class Caches:
    """What a batch keeps between steps."""

    own: list[KeysValues]
    """Of the tokens so far, layer by layer, (B, heads, room, head width); positions not yet reached hold garbage."""
    cross: Listening
    """What it listens to."""

    def select(self, rows: Tensor) -> "Caches":
        """Return the caches of some rows only."""
        return Caches(
            [(k.index_select(0, rows), v.index_select(0, rows)) for k, v in self.own], self.cross.select(rows)
        )


class InferenceDecoder:
    """The decoder of a Whisper with its weights in the compute format, as they are now.

    Args:
        model: WhisperForConditionalGeneration, also with LoRA layers.
        dtype: Format of matrix products; norms, residuals and logits are float32.
    """

    def __init__(self, model: Any, dtype: torch.dtype = torch.float32) -> None:
        decoder = model.model.decoder
        self.dtype = dtype
        self.num_heads: int = model.config.decoder_attention_heads
        self.max_positions: int = decoder.embed_positions.weight.shape[0]
        self._activation = decoder.layers[0].activation_fn
        self._tokens: Tensor = decoder.embed_tokens.weight.detach()
        self._positions: Tensor = decoder.embed_positions.weight.detach()
        self._layers = [_matrices(layer, dtype) for layer in decoder.layers]
        self._norm = affine(decoder.layer_norm, torch.float32)
        self._head = model.proj_out.weight.detach().to(dtype)

    def begin(self, encoder_hidden: Tensor, room: int, bias: Tensor | None = None) -> Caches:
        """Return the caches of a batch before its first token.

        Args:
            encoder_hidden: (B, T // 2, D).
            room: Positions to reserve for tokens.
            bias: Added to the scores of each encoder position, (1, 1, 1, T // 2); None: nothing.
        """
        states = encoder_hidden.to(self.dtype)
        batch, _, dim = states.shape
        shape = (batch, self.num_heads, room, dim // self.num_heads)
        own = [(states.new_zeros(shape), states.new_zeros(shape)) for _ in self._layers]
        return Caches(own, listen(states, [layer.cross_in for layer in self._layers], self.num_heads, bias))

    def read(self, tokens: Tensor, caches: Caches) -> Tensor:
        """Read the first tokens of every row and fill the caches; return states, (B, L, D) float32.

        Args:
            tokens: (B, L), beginning at position 0.
            caches: From `begin`; changed in place.
        """
        length = tokens.shape[1]
        hidden = self._embed(tokens, self._positions[:length])
        for number, (layer, own) in enumerate(zip(self._layers, caches.own, strict=True)):
            queries, keys, values = self._own_projections(hidden, layer)
            own[0][:, :, :length], own[1][:, :, :length] = keys, values
            mixed = functional.scaled_dot_product_attention(queries, keys, values, is_causal=length > 1)
            hidden = self._rest_of_layer(hidden, mixed, number, caches.cross)
        return functional.layer_norm(hidden, hidden.shape[-1:], *self._norm)

    def step(self, tokens: Tensor, positions: Tensor, caches: Caches, reach: int) -> Tensor:
        """Read one more token in every row; return states, (B, D) float32.

        Args:
            tokens: (B,).
            positions: (B,) place of the token in its row.
            caches: Filled up to the position before; changed in place.
            reach: More than any position: as much of the caches is looked at.
        """
        rows = torch.arange(len(tokens), device=tokens.device)
        visible = (torch.arange(reach, device=tokens.device) <= positions[:, None])[:, None, None]
        hidden = self._embed(tokens, self._positions[positions])[:, None]
        for number, (layer, own) in enumerate(zip(self._layers, caches.own, strict=True)):
            queries, keys, values = self._own_projections(hidden, layer)
            own[0][rows, :, positions], own[1][rows, :, positions] = keys[:, :, 0], values[:, :, 0]
            mixed = functional.scaled_dot_product_attention(
                queries, own[0][:, :, :reach], own[1][:, :, :reach], attn_mask=visible
            )
            hidden = self._rest_of_layer(hidden, mixed, number, caches.cross)
        return functional.layer_norm(hidden[:, 0], hidden.shape[-1:], *self._norm)

    def logits(self, states: Tensor) -> Tensor:
        """Return scores of every token, (N, V) float32, of states (N, D)."""
        return linear(states.to(self.dtype), self._head).float()

    def _embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        return functional.embedding(tokens, self._tokens) + positions

    def _own_projections(self, hidden: Tensor, layer: DecoderLayer) -> list[Tensor]:
        normed = functional.layer_norm(hidden, hidden.shape[-1:], *layer.self_norm).to(self.dtype)
        return split_heads(linear(normed, *layer.self_in), self.num_heads, parts=3)

    def _rest_of_layer(self, hidden: Tensor, mixed: Tensor, number: int, cross: Listening) -> Tensor:
        layer, size = self._layers[number], hidden.shape[-1:]
        hidden = hidden + linear(join_heads(mixed), *layer.self_out)
        normed = functional.layer_norm(hidden, size, *layer.cross_norm).to(self.dtype)
        (queries,) = split_heads(linear(normed, *layer.cross_query), self.num_heads)
        hidden = hidden + linear(cross.attend(number, queries), *layer.cross_out)
        normed = functional.layer_norm(hidden, size, *layer.final_norm).to(self.dtype)
        widened = self._activation(linear(normed, *layer.widen))
        return hidden + linear(widened, *layer.narrow)


def _matrices(layer: Any, dtype: torch.dtype) -> DecoderLayer:
    own, cross = layer.self_attn, layer.encoder_attn
    return DecoderLayer(
        self_norm=affine(layer.self_attn_layer_norm, torch.float32),
        self_in=stack([own.q_proj, own.k_proj, own.v_proj], dtype),
        self_out=affine(own.out_proj, dtype),
        cross_norm=affine(layer.encoder_attn_layer_norm, torch.float32),
        cross_query=affine(cross.q_proj, dtype),
        cross_in=stack([cross.k_proj, cross.v_proj], dtype),
        cross_out=affine(cross.out_proj, dtype),
        final_norm=affine(layer.final_layer_norm, torch.float32),
        widen=affine(layer.fc1, dtype),
        narrow=affine(layer.fc2, dtype),
    )
