"""Tensors of which each rank has some rows: what torch's fully_shard makes of parameters, and optimizers of moments.

Every function also takes plain tensors, which each rank has whole.
"""

from typing import Any

import torch
from torch import Tensor


def is_sharded(tensor: Tensor) -> bool:
    """Return whether this rank has only some rows of a tensor."""
    return hasattr(tensor, "device_mesh")  # a DTensor, whose class is slow to import


def own_rows(tensor: Tensor) -> Tensor:
    """Return the rows that this rank has, without copying; all of a plain tensor.

    The rows of all ranks, in order of rank, are the whole tensor; the last ranks may have none.
    """
    local: Tensor = _as_dtensor(tensor).to_local() if is_sharded(tensor) else tensor
    return local


def whole_tensor(tensor: Tensor) -> Tensor:
    """Return a tensor with the rows of all ranks, who must call this together; a plain tensor as it is."""
    whole: Tensor = _as_dtensor(tensor).full_tensor() if is_sharded(tensor) else tensor
    return whole


def take_own_rows(whole: Tensor, like: Tensor) -> Tensor:
    """Return this rank's rows of a whole tensor, sharded as another one of its shape; the whole if that is plain.

    Args:
        whole: The same on all ranks.
        like: A parameter; the result is on its device.
    """
    if not is_sharded(like) or whole.shape != like.shape:
        return whole.to(like.device)
    from torch.distributed.tensor import distribute_tensor

    sharded = _as_dtensor(like)
    # Without a source rank nothing is sent: each takes its rows of what it has.
    rows: Tensor = distribute_tensor(whole, sharded.device_mesh, sharded.placements, src_data_rank=None)
    return rows


@torch.no_grad()
def copy_whole(parameter: Tensor, whole: Tensor) -> None:
    """Copy a whole tensor into a parameter, in place; of a sharded one, this rank's rows."""
    own_rows(parameter).copy_(own_rows(take_own_rows(whole, parameter)))


def _as_dtensor(tensor: Tensor) -> Any:
    return tensor
