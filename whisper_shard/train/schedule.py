"""The learning rate over a run: linear warm-up, then half a cosine down.

A pure function of the number of updates, by which the loop multiplies the peak learning rate: there is no scheduler
object to save and restore.
"""

import math


def count_warmup_steps(warmup: float, total_steps: int) -> int:
    """Return the number of warm-up steps.

    Args:
        warmup: Share of all steps, 0 to 1.
        total_steps: Optimizer steps of the run.
    """
    return math.ceil(warmup * total_steps)


def cosine_factor(update: int, *, warmup_steps: int, total_steps: int, min_factor: float = 0.0) -> float:
    """Return the share of the peak learning rate for one update.

    Args:
        update: Updates made before this one, from 0; skipped steps are not counted.
        warmup_steps: Updates over which the factor rises from 0 to 1.
        total_steps: Update at which the factor reaches ``min_factor``.
        min_factor: Factor at the end, 0 to 1.

    Source: transformers.get_cosine_schedule_with_warmup, which is the case ``min_factor = 0``; SGDR, arXiv:1608.03983.
    """
    if update < warmup_steps:
        return update / max(1, warmup_steps)
    progress = min(1.0, (update - warmup_steps) / max(1, total_steps - warmup_steps))
    return min_factor + (1.0 - min_factor) * 0.5 * (1.0 + math.cos(math.pi * progress))
