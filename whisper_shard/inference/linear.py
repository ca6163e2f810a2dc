"""Weights of layers prepared for inference, and products with them.

Casting and fusing weights once for a whole evaluation costs less than autocast, which casts weights and activations
around every product. In float32 only fused weights are copies; in bfloat16 all are, half the size of the model.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from whisper_shard.model.weights import effective_weight

WeightAndBias = tuple[Tensor, Tensor | None]
"""Parameters of a linear layer, convolution or norm."""
FEW_ROWS = range(1, 16)
"""Numbers of rows for which a float32 product on a CPU is faster with the weight on the left."""
NARROW = 1024
"""Widths up to which that is true of less than eight rows."""


def weight_and_bias(module: Any, dtype: torch.dtype) -> WeightAndBias:
    """Return the parameters of a linear layer, convolution or norm in a dtype, without gradients."""
    base = getattr(module, "base_layer", module)
    bias = None if base.bias is None else base.bias.detach().to(dtype)
    return effective_weight(module).to(dtype), bias


def fuse_projections(modules: Sequence[Any], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return linear layers of the same input as one, outputs side by side; a missing bias is zero."""
    parts = [weight_and_bias(module, dtype) for module in modules]
    biases = [weight.new_zeros(len(weight)) if bias is None else bias for weight, bias in parts]
    return torch.cat([weight for weight, _ in parts]), torch.cat(biases)


def linear(states: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return ``torch.nn.functional.linear`` of states (..., D), computed faster where rows are few."""
    rows, width = states.numel() // states.shape[-1], states.shape[-1]
    is_faster = rows in FEW_ROWS and (rows >= 8 or width <= NARROW)
    if not is_faster or states.dtype != torch.float32 or states.device.type != "cpu":
        return functional.linear(states, weight, bias)
    # A decoding step has one row for each utterance that is not finished, so it passes through this range for many
    # steps. There (weight @ states.T).T is 1.4 to 2.4 times as fast as states @ weight.T for the large weights, and
    # outside of it slower: 1 core of a Xeon with AVX-512, torch 2.13, weights of 512 x 1,536 to 512 x 51,865. A single
    # row is faster as two: 1.5 times on 1 core of an EPYC, which reads the weights at 16 GB/s for one and 25 for two.
    few = states.reshape(rows, width)
    few = few.repeat(2, 1) if rows == 1 else few
    product = (weight @ few.t()).t()[:rows].contiguous().view(*states.shape[:-1], -1)
    return product if bias is None else product.add_(bias)


def split_heads(states: Tensor, num_heads: int, *, parts: int = 1) -> list[Tensor]:
    """Split (B, L, parts * D) into that many (B, heads, L, head width)."""
    split = states.view(*states.shape[:-1], parts, num_heads, -1)
    return [split[:, :, part].transpose(1, 2) for part in range(parts)]


def join_heads(states: Tensor) -> Tensor:
    """Join (B, heads, L, head width) to (B, L, D)."""
    return states.transpose(1, 2).flatten(2)
