"""AdamW with moments of 8 bits, by bitsandbytes: a quarter of their memory.

Each block of 256 values has a scale of its own, and tensors of fewer than 4,096 values keep float32.

Source: Dettmers et al. (2022), 8-bit Optimizers via Block-wise Quantization, arXiv:2110.02861.
"""

from collections.abc import Callable
from typing import Any

import bitsandbytes
import torch
from torch import Tensor


class AdamW8bit(bitsandbytes.optim.AdamW8bit):  # type: ignore[misc]  # bitsandbytes has no types
    """AdamW that skips its update where ``found_inf`` is 1, as the fused one of torch does."""

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        super().__init__(groups, lr=0.0)  # the learning rate is set anew at each step
        self.grad_scale: Tensor | None = None
        self.found_inf: Tensor | None = None

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update weights and moments; change neither if ``found_inf`` is 1."""
        # The host waits for the device here, as nowhere else in a step: the kernels of bitsandbytes know no found_inf,
        # and take the learning rate as a number of the host.
        if self.found_inf is not None and bool(self.found_inf):
            return None
        for group in self.param_groups:
            group["lr"] = float(group["lr"])
        return super().step(closure)
