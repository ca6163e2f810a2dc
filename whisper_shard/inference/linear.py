"""Layers as plain matrices in the format that is computed in: what encoder and decoder of an evaluation are made of.

Casting and joining weights once for a whole evaluation costs less than autocast, which casts weights and activations
around every product. In float32 only joined weights are copies; in bfloat16 all are, half the size of the model.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from whisper_shard.model.weights import effective_weight

Affine = tuple[Tensor, Tensor | None]
"""Weight and bias."""
FEW_ROWS = range(3, 25)
"""Rows for which a float32 product on a CPU is up to twice as fast with the weight on the left."""


def affine(module: Any, dtype: torch.dtype) -> Affine:
    """Return weight and bias of a linear layer, convolution or norm in a format, without gradients."""
    base = getattr(module, "base_layer", module)
    bias = None if base.bias is None else base.bias.detach().to(dtype)
    return effective_weight(module).to(dtype), bias


def stack(modules: Sequence[Any], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return linear layers over the same input as one: outputs lie side by side, and a missing bias is zero."""
    parts = [affine(module, dtype) for module in modules]
    biases = [weight.new_zeros(len(weight)) if bias is None else bias for weight, bias in parts]
    return torch.cat([weight for weight, _ in parts]), torch.cat(biases)


def linear(states: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return (..., D) passed through a layer, as `torch.nn.functional.linear` does, also where rows are few."""
    rows = states.numel() // states.shape[-1]
    if rows not in FEW_ROWS or states.dtype != torch.float32 or states.device.type != "cpu":
        return functional.linear(states, weight, bias)
    passed = (weight @ states.reshape(rows, -1).t()).t().contiguous().view(*states.shape[:-1], -1)
    return passed if bias is None else passed.add_(bias)


def split_heads(states: Tensor, num_heads: int, *, parts: int = 1) -> list[Tensor]:
    """Return (B, L, parts * D) as that many (B, heads, L, head width)."""
    split = states.view(*states.shape[:-1], parts, num_heads, -1)
    return [split[:, :, part].transpose(1, 2) for part in range(parts)]


def join_heads(states: Tensor) -> Tensor:
    """Return (B, heads, L, head width) as (B, L, D)."""
    return states.transpose(1, 2).flatten(2)
