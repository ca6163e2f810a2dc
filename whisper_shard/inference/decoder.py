"""Whisper's decoder for inference: weights prepared once, caches of fixed size, rows at different positions.

The same layers as Hugging Face's, written out as products with plain weights. What is gained: encoder states serve the
loss and decoding in the form that costs least (`cross_attention`); a step handles no cache objects and builds one mask;
and each row of a batch may be at its own position, so that finished rows can leave the batch and each row's draft can
be accepted up to its own length.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from whisper_shard.inference.cross_attention import (
    CrossAttention,
    KeysValues,
    KeyValueProjection,
    WatchedCrossAttention,
    prepare_cross_attention,
)
from whisper_shard.inference.linear import (
    WeightAndBias,
    fuse_projections,
    join_heads,
    linear,
    split_heads,
    weight_and_bias,
)
from whisper_shard.model.device import full_precision


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderLayer:
    """Weights of one decoder layer in the dtype of matrix products; norms stay float32."""

    self_norm: WeightAndBias
    """Norm before self-attention."""
    self_qkv: WeightAndBias
    """Fused projections of queries, keys and values, (3 D, D)."""
    self_out: WeightAndBias
    """Output projection of self-attention."""
    cross_norm: WeightAndBias
    """Norm before cross-attention."""
    cross_query: WeightAndBias
    """Query projection of cross-attention."""
    cross_kv: KeyValueProjection
    """Fused projections of keys and values of cross-attention, (2 D, D)."""
    cross_out: WeightAndBias
    """Output projection of cross-attention."""
    final_norm: WeightAndBias
    """Norm before the feed-forward block."""
    fc1: WeightAndBias
    """First layer of the feed-forward block."""
    fc2: WeightAndBias
    """Second layer of the feed-forward block."""


@dataclass(frozen=True, slots=True)
class Caches:
    """What a batch keeps between decoding steps."""

    tokens: list[KeysValues]
    """Self-attention of each layer, (B, heads, capacity, head width); positions not yet reached are undefined."""
    cross: CrossAttention
    """Cross-attention over the encoder states."""

    def select(self, rows: Tensor) -> "Caches":
        """Return the caches of some rows only."""
        tokens = [(keys.index_select(0, rows), values.index_select(0, rows)) for keys, values in self.tokens]
        return Caches(tokens, self.cross.select(rows))


class InferenceDecoder:
    """The decoder of a Whisper with its current weights.

    Args:
        model: WhisperForConditionalGeneration, also with LoRA layers.
        dtype: Dtype of matrix products; norms, residuals and the output projection are float32.
    """

    def __init__(self, model: Any, dtype: torch.dtype = torch.float32) -> None:
        decoder = model.model.decoder
        self._dtype = dtype
        self._num_heads: int = model.config.decoder_attention_heads
        self._activation = decoder.layers[0].activation_fn
        self._embeddings: Tensor = decoder.embed_tokens.weight.detach()
        self._positions: Tensor = decoder.embed_positions.weight.detach()
        self._layers = [_prepare_layer(layer, dtype) for layer in decoder.layers]
        self._norm = weight_and_bias(decoder.layer_norm, torch.float32)
        self._output: Tensor = model.proj_out.weight.detach()
        self.max_positions: int = len(self._positions)

    def start(self, encoder_states: Tensor, capacity: int, bias: Tensor | None = None) -> Caches:
        """Return the caches of a batch before its first token.

        Args:
            encoder_states: (B, T // 2, D).
            capacity: Positions of tokens to reserve.
            bias: Attention bias of each encoder position, (1, 1, 1, T // 2); None: zero.
        """
        states = encoder_states.to(self._dtype)
        batch, _, dim = states.shape
        shape = (batch, self._num_heads, capacity, dim // self._num_heads)
        tokens = [(states.new_zeros(shape), states.new_zeros(shape)) for _ in self._layers]
        projections = [layer.cross_kv for layer in self._layers]
        return Caches(tokens, prepare_cross_attention(states, projections, self._num_heads, bias))

    def prefill(self, tokens: Tensor, caches: Caches) -> Tensor:
        """Decode the first tokens of every row at once and fill the caches; return states, (B, L, D) float32.

        Args:
            tokens: (B, L), beginning at position 0.
            caches: From `start`; changed in place.
        """
        length = tokens.shape[1]
        hidden = self._embed(tokens, self._positions[:length])
        for number, (layer, own) in enumerate(zip(self._layers, caches.tokens, strict=True)):
            queries, keys, values = self._project_self(hidden, layer)
            own[0][:, :, :length], own[1][:, :, :length] = keys, values
            mixed = functional.scaled_dot_product_attention(queries, keys, values, is_causal=length > 1)
            hidden = self._finish_layer(hidden, mixed, number, caches.cross)
        return functional.layer_norm(hidden, hidden.shape[-1:], *self._norm)

    def step(self, tokens: Tensor, positions: Tensor, caches: Caches, num_positions: int) -> Tensor:
        """Decode one more token in every row; return states, (B, D) float32.

        Args:
            tokens: (B,).
            positions: (B,) position of the token in its row.
            caches: Filled up to the position before; changed in place.
            num_positions: Positions of the caches to attend to; more than any of ``positions``.
        """
        rows = torch.arange(len(tokens), device=tokens.device)
        visible = (torch.arange(num_positions, device=tokens.device) <= positions[:, None])[:, None, None]
        hidden = self._embed(tokens, self._positions[positions])[:, None]
        for number, (layer, own) in enumerate(zip(self._layers, caches.tokens, strict=True)):
            queries, keys, values = self._project_self(hidden, layer)
            own[0][rows, :, positions], own[1][rows, :, positions] = keys[:, :, 0], values[:, :, 0]
            mixed = functional.scaled_dot_product_attention(
                queries, own[0][:, :, :num_positions], own[1][:, :, :num_positions], attn_mask=visible
            )
            hidden = self._finish_layer(hidden, mixed, number, caches.cross)
        return functional.layer_norm(hidden[:, 0], hidden.shape[-1:], *self._norm)

    def attend_to_audio(
        self, encoder_states: Tensor, tokens: Tensor, heads: Sequence[tuple[int, int]]
    ) -> tuple[Tensor, Tensor]:
        """Decode a whole text, and look at what some heads attend to.

        Args:
            encoder_states: (B, T // 2, D).
            tokens: (B, L).
            heads: Layer and head of each.

        Returns:
            States (B, L, D) float32, and attention weights (B, heads, L, T // 2), which sum to 1 over the audio.
        """
        caches = self.start(encoder_states, tokens.shape[1])
        projections = [layer.cross_kv for layer in self._layers]
        watched = WatchedCrossAttention(caches.cross, encoder_states.to(self._dtype), projections, heads)
        states = self.prefill(tokens, Caches(caches.tokens, watched))
        return states, torch.stack([watched.weights[head] for head in heads], dim=1)

    def logits(self, states: Tensor) -> Tensor:
        """Return the logits of states (N, D), (N, V) float32."""
        # bfloat16 has 8 bits: it would round logits near 20 to steps of 0.125 and make ties, which argmax then breaks
        # by the token's number.
        with full_precision():
            return linear(states, self._output)

    def _embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        return functional.embedding(tokens, self._embeddings) + positions

    def _project_self(self, hidden: Tensor, layer: DecoderLayer) -> list[Tensor]:
        normed = functional.layer_norm(hidden, hidden.shape[-1:], *layer.self_norm).to(self._dtype)
        return split_heads(linear(normed, *layer.self_qkv), self._num_heads, parts=3)

    def _finish_layer(self, hidden: Tensor, mixed: Tensor, number: int, cross: CrossAttention) -> Tensor:
        """Return the output of a layer from the output of its self-attention, before the output projection."""
        layer, size = self._layers[number], hidden.shape[-1:]
        hidden = hidden + linear(join_heads(mixed), *layer.self_out)
        normed = functional.layer_norm(hidden, size, *layer.cross_norm).to(self._dtype)
        (queries,) = split_heads(linear(normed, *layer.cross_query), self._num_heads)
        hidden = hidden + linear(cross.attend(number, queries), *layer.cross_out)
        normed = functional.layer_norm(hidden, size, *layer.final_norm).to(self._dtype)
        widened = self._activation(linear(normed, *layer.fc1))
        return hidden + linear(widened, *layer.fc2)


def _prepare_layer(layer: Any, dtype: torch.dtype) -> DecoderLayer:
    own, cross = layer.self_attn, layer.encoder_attn
    return DecoderLayer(
        self_norm=weight_and_bias(layer.self_attn_layer_norm, torch.float32),
        self_qkv=fuse_projections([own.q_proj, own.k_proj, own.v_proj], dtype),
        self_out=weight_and_bias(own.out_proj, dtype),
        cross_norm=weight_and_bias(layer.encoder_attn_layer_norm, torch.float32),
        cross_query=weight_and_bias(cross.q_proj, dtype),
        cross_kv=fuse_projections([cross.k_proj, cross.v_proj], dtype),
        cross_out=weight_and_bias(cross.out_proj, dtype),
        final_norm=weight_and_bias(layer.final_layer_norm, torch.float32),
        fc1=weight_and_bias(layer.fc1, dtype),
        fc2=weight_and_bias(layer.fc2, dtype),
    )
