"""Whisper's encoder for inference: weights prepared once, few utterances at a time on a CPU.

The same layers as Hugging Face's, written out as products with plain weights; in float32 and windows of 30 s the states
are equal to the bit. What is gained: one product for queries, keys and values, states contiguous in the order in which
the next layer reads them, no casts but the necessary ones, and activations that stay in the cache of the processor.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from whisper_shard.inference.linear import WeightAndBias, fuse_projections, join_heads, split_heads, weight_and_bias
from whisper_shard.model.borrowed_silence import SharedKeysValues, SilenceStates, append_shared, replicate_edge

CPU_POSITIONS = 3000
"""Encoder positions in one pass on a CPU: two windows of 30 s. The activations of more do not fit into its cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderLayer:
    """Weights of one encoder layer in the dtype of matrix products; norms stay float32."""

    self_norm: WeightAndBias
    """Norm before self-attention."""
    self_qkv: WeightAndBias
    """Fused projections of queries, keys and values, (3 D, D)."""
    self_out: WeightAndBias
    """Output projection of self-attention."""
    final_norm: WeightAndBias
    """Norm before the feed-forward block."""
    fc1: WeightAndBias
    """First layer of the feed-forward block."""
    fc2: WeightAndBias
    """Second layer of the feed-forward block."""


class InferenceEncoder:
    """The encoder of a Whisper with its current weights.

    Args:
        model: WhisperForConditionalGeneration, also with LoRA layers.
        dtype: Dtype of matrix products; norms and residuals are float32.
    """

    def __init__(self, model: Any, dtype: torch.dtype = torch.float32) -> None:
        encoder = model.model.encoder
        self._dtype = dtype
        self._num_heads: int = model.config.encoder_attention_heads
        self._activation = encoder.layers[0].activation_fn
        self._convolutions = (weight_and_bias(encoder.conv1, dtype), weight_and_bias(encoder.conv2, dtype))
        self._positions: Tensor = encoder.embed_positions.weight.detach()
        self._layers = [_prepare_layer(layer, dtype) for layer in encoder.layers]
        self._norm = weight_and_bias(encoder.layer_norm, torch.float32)

    @torch.inference_mode()
    def encode(self, log_mel: Tensor, silence: SilenceStates | None = None) -> Tensor:
        """Return encoder states, (B, T // 2, D) float32.

        Args:
            log_mel: (B, M, T), T even and no longer than the model's window.
            silence: Shared with all rows as further keys and values; None: nothing.
        """
        rows = len(log_mel)
        if log_mel.device.type == "cpu":
            rows = max(1, CPU_POSITIONS // (log_mel.shape[-1] // 2))
        shared = None if silence is None else self._share(silence, log_mel.shape[-1] // 2)
        return torch.cat([self._encode(part, shared) for part in torch.split(log_mel, rows)])

    @torch.inference_mode()
    def silence_states(self, silence: SilenceStates, position: int) -> Tensor:
        """Return the encoder states of borrowed silence at this position and later, (1, S, D) float32."""
        hidden = silence.from_position(-1, position).float()
        return functional.layer_norm(hidden, hidden.shape[-1:], *self._norm)

    def _share(self, silence: SilenceStates, position: int) -> list[SharedKeysValues]:
        """Return shared keys and values of each layer for a window that ends at this position."""
        shared = []
        for number, layer in enumerate(self._layers):
            normed = self._normalize(silence.from_position(number, position), layer.self_norm)
            _, keys, values = split_heads(functional.linear(normed, *layer.self_qkv), self._num_heads, parts=3)
            shared.append(SharedKeysValues(keys, values, silence.stride))
        return shared

    def _encode(self, log_mel: Tensor, shared: Sequence[SharedKeysValues] | None) -> Tensor:
        conv1, conv2 = self._convolutions
        num_positions = log_mel.shape[-1] // 2
        log_mel = log_mel if shared is None else replicate_edge(log_mel)
        hidden = functional.gelu(functional.conv1d(log_mel.to(self._dtype), *conv1, padding=1))
        hidden = functional.gelu(functional.conv1d(hidden, *conv2, stride=2, padding=1))
        hidden = hidden.permute(0, 2, 1)[:, :num_positions].contiguous().float()
        hidden = hidden + self._positions[:num_positions]
        for number, layer in enumerate(self._layers):
            normed = self._normalize(hidden, layer.self_norm)
            queries, keys, values = split_heads(functional.linear(normed, *layer.self_qkv), self._num_heads, parts=3)
            bias = None
            if shared is not None:
                keys, values, bias = append_shared(keys, values, shared[number])
            mixed = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=bias)
            hidden += functional.linear(join_heads(mixed), *layer.self_out)
            widened = self._activation(functional.linear(self._normalize(hidden, layer.final_norm), *layer.fc1))
            hidden += functional.linear(widened, *layer.fc2)
        return functional.layer_norm(hidden, hidden.shape[-1:], *self._norm)

    def _normalize(self, hidden: Tensor, norm: WeightAndBias) -> Tensor:
        return functional.layer_norm(hidden, hidden.shape[-1:], *norm).to(self._dtype)


def _prepare_layer(layer: Any, dtype: torch.dtype) -> EncoderLayer:
    own = layer.self_attn
    return EncoderLayer(
        self_norm=weight_and_bias(layer.self_attn_layer_norm, torch.float32),
        self_qkv=fuse_projections([own.q_proj, own.k_proj, own.v_proj], dtype),
        self_out=weight_and_bias(own.out_proj, dtype),
        final_norm=weight_and_bias(layer.final_layer_norm, torch.float32),
        fc1=weight_and_bias(layer.fc1, dtype),
        fc2=weight_and_bias(layer.fc2, dtype),
    )
