"""Whisper's encoder for evaluation: weights prepared once, few utterances at a time on a CPU.

The same layers as Hugging Face's, written out over plain matrices; in float32 and windows of 30 s the states are equal
to the bit. What that buys: one product for queries, keys and values, states that lie in memory as the next layer
reads them, no casts but the needed ones, and activations that do not leave the processor's cache.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from whisper_shard.inference.linear import Affine, affine, join_heads, split_heads, stack
from whisper_shard.model.borrowed_silence import Lent, Silence, with_lent, without_edge

CPU_POSITIONS = 3000
"""Encoder positions that pass through the layers together on a CPU: two windows of 30 s. More fall out of its cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderLayer:
    """One encoder layer as matrices in the compute format; norms stay float32."""

    self_norm: Affine
    """Before self-attention."""
    self_in: Affine
    """Queries, keys and values in one matrix, (3 D, D)."""
    self_out: Affine
    """Behind self-attention."""
    final_norm: Affine
    """Before the feed-forward block."""
    widen: Affine
    """First matrix of the feed-forward block."""
    narrow: Affine
    """Second matrix of the feed-forward block."""


class InferenceEncoder:
    """The encoder of a Whisper with its weights in the compute format, as they are now.

    Args:
        model: WhisperForConditionalGeneration, also with LoRA layers.
        dtype: Format of matrix products; norms and residuals are float32.
    """

    def __init__(self, model: Any, dtype: torch.dtype = torch.float32) -> None:
        encoder = model.model.encoder
        self._dtype = dtype
        self._num_heads: int = model.config.encoder_attention_heads
        self._activation = encoder.layers[0].activation_fn
        self._convolutions = (affine(encoder.conv1, dtype), affine(encoder.conv2, dtype))
        self._positions: Tensor = encoder.embed_positions.weight.detach()
        self._layers = [_matrices(layer, dtype) for layer in encoder.layers]
        self._norm = affine(encoder.layer_norm, torch.float32)

    @torch.inference_mode()
    def encode(self, log_mel: Tensor, silence: Silence | None = None) -> Tensor:
        """Return encoder states, (B, T // 2, D) float32.

        Args:
            log_mel: (B, M, T), T even and no longer than the model's positions.
            silence: What is heard behind the window; None: nothing.
        """
        rows = len(log_mel)
        if log_mel.device.type == "cpu":
            rows = max(1, CPU_POSITIONS // (log_mel.shape[-1] // 2))
        lent = None if silence is None else self._lend(silence, log_mel.shape[-1] // 2)
        return torch.cat([self._encode(part, lent) for part in torch.split(log_mel, rows)])

    @torch.inference_mode()
    def behind(self, silence: Silence, position: int) -> Tensor:
        """Return the states of borrowed silence at this position and later, (1, S, D) float32."""
        hidden = silence.behind(-1, position).float()
        return functional.layer_norm(hidden, hidden.shape[-1:], *self._norm)

    def _lend(self, silence: Silence, position: int) -> list[Lent]:
        """Return what each layer may look at behind a window that ends at this position."""
        lent = []
        for number, layer in enumerate(self._layers):
            normed = self._normalize(silence.behind(number, position), layer.self_norm)
            _, keys, values = split_heads(functional.linear(normed, *layer.self_in), self._num_heads, parts=3)
            lent.append(Lent(keys, values, silence.stride))
        return lent

    def _encode(self, log_mel: Tensor, lent: Sequence[Lent] | None) -> Tensor:
        first, second = self._convolutions
        num_positions = log_mel.shape[-1] // 2
        log_mel = log_mel if lent is None else without_edge(log_mel)
        hidden = functional.gelu(functional.conv1d(log_mel.to(self._dtype), *first, padding=1))
        hidden = functional.gelu(functional.conv1d(hidden, *second, stride=2, padding=1))
        hidden = hidden.permute(0, 2, 1)[:, :num_positions].contiguous().float()
        hidden = hidden + self._positions[:num_positions]
        for number, layer in enumerate(self._layers):
            normed = self._normalize(hidden, layer.self_norm)
            queries, keys, values = split_heads(functional.linear(normed, *layer.self_in), self._num_heads, parts=3)
            bias = None
            if lent is not None:
                keys, values, bias = with_lent(keys, values, lent[number])
            mixed = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=bias)
            hidden += functional.linear(join_heads(mixed), *layer.self_out)
            widened = self._activation(functional.linear(self._normalize(hidden, layer.final_norm), *layer.widen))
            hidden += functional.linear(widened, *layer.narrow)
        return functional.layer_norm(hidden, hidden.shape[-1:], *self._norm)

    def _normalize(self, hidden: Tensor, norm: Affine) -> Tensor:
        return functional.layer_norm(hidden, hidden.shape[-1:], *norm).to(self._dtype)


def _matrices(layer: Any, dtype: torch.dtype) -> EncoderLayer:
    own = layer.self_attn
    return EncoderLayer(
        self_norm=affine(layer.self_attn_layer_norm, torch.float32),
        self_in=stack([own.q_proj, own.k_proj, own.v_proj], dtype),
        self_out=affine(own.out_proj, dtype),
        final_norm=affine(layer.final_layer_norm, torch.float32),
        widen=affine(layer.fc1, dtype),
        narrow=affine(layer.fc2, dtype),
    )
