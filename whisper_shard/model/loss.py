"""The loss: cross-entropy summed over the tokens that count, and their number.

Sum and number are returned apart, so that training divides once by the tokens of the whole optimizer step: then
neither accumulation nor the number of ranks changes the gradient.
"""

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

IGNORE_INDEX = -100
"""Label of a position that does not count."""
CHUNK_TOKENS = 8192
"""Rows of logits in memory at once (1.7 GB at 51,865 tokens)."""


def token_loss(
    hidden: Tensor,
    head: Tensor,
    labels: Tensor,
    *,
    label_smoothing: float = 0.0,
    kept: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return (sum of token losses, number of tokens), both float32 scalars on the device.

    Args:
        hidden: (B, L, D) decoder states.
        head: (V, D) output projection.
        labels: (B, L) token ids; IGNORE_INDEX at positions that do not count.
        label_smoothing: Probability mass spread evenly over the vocabulary, 0 to 1.
        kept: (N,) positions in the flattened labels that count, if known. Without it, the other rows are dropped on a
            CPU and kept on a GPU, where finding them would wait for the device.
    """
    rows, targets = _select_rows(hidden.flatten(0, 1), labels.flatten(), kept)
    num_tokens = (targets != IGNORE_INDEX).sum().float()
    if len(rows) <= CHUNK_TOKENS:
        return _chunk_loss(rows, head, targets, label_smoothing), num_tokens
    # Logits, their softmax and their gradient are V / D, 40 to 100, times as large as the states they come from. A
    # checkpointed chunk keeps its states only and computes the logits again in the backward pass.
    losses = [
        checkpoint(_chunk_loss, part, head, target, label_smoothing, use_reentrant=False, preserve_rng_state=False)
        for part, target in zip(torch.split(rows, CHUNK_TOKENS), torch.split(targets, CHUNK_TOKENS), strict=True)
    ]
    return torch.stack(losses).sum(), num_tokens


def _select_rows(rows: Tensor, targets: Tensor, kept: Tensor | None) -> tuple[Tensor, Tensor]:
    if kept is None and rows.device.type != "cpu":
        return rows, targets
    if kept is None:
        kept = (targets != IGNORE_INDEX).nonzero()[:, 0]
    return rows.index_select(0, kept), targets.index_select(0, kept)


def _chunk_loss(rows: Tensor, head: Tensor, targets: Tensor, label_smoothing: float) -> Tensor:
    logits = functional.linear(rows, head).float()
    return functional.cross_entropy(
        logits, targets, ignore_index=IGNORE_INDEX, reduction="sum", label_smoothing=label_smoothing
    )
