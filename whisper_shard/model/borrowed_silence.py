"""Borrowed silence: an utterance in a short window hears behind it what it would hear in a window of 30 s.

Standard tools give Whisper 30 s, most of them silence, and a model that only knows short windows behaves differently
there. But what the encoder makes of the silence hardly depends on what was said before it. So it is computed once a
step for one short utterance, the donor, and lent to all others: as more keys and values of self-attention in
every layer of the encoder, and of cross-attention in the decoder. All other work is that of the short window.

What differs from a window of 30 s: the silence is the donor's; its states are constants, so gradients reach the weights
that make keys and values of them, not the layers before; and of every four neighbours, nearly equal in silence, one is
kept and counts four times, by log 4 added to its scores. docs/training.md says how near this comes.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

ATTENTION = "sdpa_and_silence"
"""Name of `attend` among the attention functions of transformers."""
STRIDE = 4
"""Of so many neighbouring positions one is kept."""
_ALIGNMENT = 8  # Source: preprocess_mask in aten/src/ATen/native/transformers/attention.cpp of PyTorch


class Lent(NamedTuple):
    """What one attention may look at besides its own."""

    keys: Tensor
    """(1, heads, S, head width)."""
    values: Tensor
    """Likewise."""
    stride: int
    """Positions that each of them stands for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Silence:
    """What the encoder makes of the silence behind the donor."""

    states: tuple[Tensor, ...]
    """Input of each encoder layer, and the output of the last: (1, S, D) each."""
    first: int
    """Encoder position of the first of them."""
    stride: int = STRIDE
    """From one to the next."""

    def behind(self, layer: int, position: int) -> Tensor:
        """Return the states at this encoder position and later, (1, S', D)."""
        skipped = max(0, math.ceil((position - self.first) / self.stride))
        return self.states[layer][:, skipped:]

    def lend(self, attention: Any, states: Tensor) -> dict[str, Lent]:
        """Return the keyword for a layer whose attention may look at these states; nothing if there are none.

        Args:
            attention: WhisperAttention, also with low-rank updates.
            states: (1, S, D) as the attention sees them: normed.
        """
        if states.shape[1] == 0:
            return {}
        shape = (1, -1, attention.num_heads, attention.head_dim)
        keys, values = (project(states).view(shape).transpose(1, 2) for project in (attention.k_proj, attention.v_proj))
        return {"lent": Lent(keys, values, self.stride)}


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    lent: Lent | None = None,
    **more: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attend as transformers' sdpa does; attention that is not causal also looks at what is lent."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if lent is not None and not module.is_causal:
        key, value, attention_mask = with_lent(key, value, lent)
    result: tuple[Tensor, Tensor | None] = sdpa_attention_forward(module, query, key, value, attention_mask, **more)
    return result


def with_lent(keys: Tensor, values: Tensor, lent: Lent) -> tuple[Tensor, Tensor, Tensor]:
    """Return keys and values, (B, heads, T + S, head width), and what is added to the scores, (1, 1, 1, T + S)."""
    joined = (
        torch.cat([own, other.to(own.dtype).expand(len(own), -1, -1, -1)], dim=2)
        for own, other in ((keys, lent.keys), (values, lent.values))
    )
    all_keys, all_values = joined
    return all_keys, all_values, score_bias(keys, keys.shape[2], lent.keys.shape[2], lent.stride)


def score_bias(like: Tensor, num_own: int, num_lent: int, stride: int) -> Tensor:
    """Return what makes each lent position count as often as the positions it stands for, (1, 1, 1, own + lent).

    Its strides are multiples of 8: memory-efficient attention on GPUs would else copy it, in every layer.
    """
    size = num_own + num_lent
    bias = like.new_zeros(1, 1, 1, -(-size // _ALIGNMENT) * _ALIGNMENT)[..., :size]
    bias[..., num_own:] = math.log(stride)
    return bias


def without_edge(log_mel: Tensor) -> Tensor:
    """Let a window go on as it ends: the convolutions must not see an edge where in 30 s there would be none."""
    return functional.pad(log_mel, (0, 2), mode="replicate")


def allow_lending(model: Any) -> None:
    """Let the attention of a model look at what is lent; without that it computes as before.

    Args:
        model: WhisperForConditionalGeneration.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(ATTENTION, attend)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)
    model.set_attn_implementation(ATTENTION)
