"""Borrowed silence: short windows attend to the silence that would follow them in a window of 30 s.

Standard tools give Whisper 30 s, most of it silence, and a model that has only seen short windows behaves differently
there. But the encoder states of trailing silence depend little on the speech before it. So they are computed once a
step, for one short utterance (the silence source), and shared with all others: as additional keys and values of
self-attention in every encoder layer, and of cross-attention in every decoder layer. All other work is that of the
short window.

What differs from a window of 30 s: the silence follows another utterance; its states are constants, so gradients reach
the projections that make keys and values of them, but not the layers before; and of every ``STRIDE`` neighbouring
positions, nearly equal in silence, one is kept and weighted by adding log(STRIDE) to its attention scores.
docs/training.md says how close this comes.

Source of the weighting: proportional attention in token merging (ToMe), arXiv:2210.09461, section 3. Constant states
of another segment as further keys and values: Transformer-XL, arXiv:1901.02860.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

SHARED_ATTENTION = "sdpa_with_shared"
"""Name of `sdpa_with_shared` among the attention functions of transformers."""
STRIDE = 4
"""Encoder positions of silence that one kept position stands for (80 ms)."""
_ALIGNMENT = 8  # Source: preprocess_mask in aten/src/ATen/native/transformers/attention.cpp of PyTorch


class SharedKeysValues(NamedTuple):
    """Keys and values of silence in one attention layer, shared by all rows of a batch."""

    keys: Tensor
    """(1, heads, S, head width)."""
    values: Tensor
    """(1, heads, S, head width)."""
    stride: int
    """Encoder positions that each key stands for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedStates:
    """States of silence as an attention layer takes them; it makes keys and values of them itself.

    So all weights are used within the layers that own them, and engines that fetch the weights of a layer only while it
    computes, such as torch's fully_shard, need to know nothing about silence.
    """

    states: Tensor
    """(1, S, D)."""
    norm: Any
    """Norm of the layer, applied to the states first; None: they are normed already."""
    stride: int
    """Encoder positions that each state stands for."""

    def project(self, attention: Any) -> SharedKeysValues:
        """Return the keys and values that an attention makes of the states.

        Args:
            attention: WhisperAttention, also with low-rank updates.
        """
        states = self.states if self.norm is None else self.norm(self.states)
        shape = (1, -1, attention.num_heads, attention.head_dim)
        keys, values = (project(states).view(shape).transpose(1, 2) for project in (attention.k_proj, attention.v_proj))
        return SharedKeysValues(keys, values, self.stride)


@dataclass(frozen=True, slots=True, kw_only=True)
class SilenceStates:
    """Encoder states of the silence after one utterance, layer by layer."""

    states: tuple[Tensor, ...]
    """Input of each encoder layer, and output of the last before its norm: (1, S, D) each."""
    first_position: int
    """Encoder position of the first state."""
    stride: int = STRIDE
    """Encoder positions from one state to the next."""

    def from_position(self, layer: int, position: int) -> Tensor:
        """Return the states of a layer at this encoder position and later, (1, S', D)."""
        # Whisper's positions are absolute: a window that ends at a position goes on with the state of the next one.
        skipped = max(0, math.ceil((position - self.first_position) / self.stride))
        return self.states[layer][:, skipped:]

    def share(self, states: Tensor, norm: Any = None) -> dict[str, SharedStates]:
        """Return states as the keyword argument ``shared`` of a layer; empty if there are none.

        Args:
            states: (1, S, D).
            norm: Norm of the layer that the states still need; None: they are normed already.
        """
        if states.shape[1] == 0:
            return {}
        return {"shared": SharedStates(states=states, norm=norm, stride=self.stride)}


def sdpa_with_shared(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    shared: SharedStates | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Compute attention as transformers' sdpa does, over shared keys and values too where it is not causal."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    # A decoder layer passes its keyword arguments to both of its attentions; only cross-attention sees silence.
    if shared is not None and not module.is_causal:
        key, value, attention_mask = append_shared(key, value, shared.project(module))
    result: tuple[Tensor, Tensor | None] = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    return result


def append_shared(keys: Tensor, values: Tensor, shared: SharedKeysValues) -> tuple[Tensor, Tensor, Tensor]:
    """Return keys and values, (B, heads, T + S, head width), and the attention bias, (1, 1, 1, T + S)."""
    all_keys, all_values = (
        torch.cat([own, silence.to(own.dtype).expand(len(own), -1, -1, -1)], dim=2)
        for own, silence in ((keys, shared.keys), (values, shared.values))
    )
    return all_keys, all_values, attention_bias(keys, keys.shape[2], shared.keys.shape[2], shared.stride)


def attention_bias(like: Tensor, num_own: int, num_shared: int, stride: int) -> Tensor:
    """Return the attention bias that weights each shared position by its stride, (1, 1, 1, own + shared).

    Args:
        like: Its dtype and device are used.
        num_own: Positions of the window.
        num_shared: Shared positions behind them.
        stride: Positions that each shared one stands for.
    """
    size = num_own + num_shared
    # softmax(score + log n) gives a key the weight of n equal keys. The rows of the bias are padded to a multiple of
    # 8 because memory-efficient attention on GPUs would otherwise copy it in every layer.
    bias = like.new_zeros(1, 1, 1, -(-size // _ALIGNMENT) * _ALIGNMENT)[..., :size]
    bias[..., num_own:] = math.log(stride)
    return bias


def replicate_edge(log_mel: Tensor) -> Tensor:
    """Continue a spectrogram by its last frame, (B, M, T + 2).

    The convolutions pad with zeros, which in a log-mel are louder than silence and would mark an edge where a window
    of 30 s has none.
    """
    # Only the first convolution reads beyond the end, and only one frame; the second keeps the number of frames even.
    return functional.pad(log_mel, (0, 2), mode="replicate")


def enable_shared_attention(model: Any) -> None:
    """Let the attention layers of a model take shared keys and values; without any they compute as before.

    Args:
        model: WhisperForConditionalGeneration.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(SHARED_ATTENTION, sdpa_with_shared)
    AttentionMaskInterface.register(SHARED_ATTENTION, sdpa_mask)
    model.set_attn_implementation(SHARED_ATTENTION)
