"""The learning rate over a run: a straight rise, then half a cosine down.

Pure: a step number goes in, a factor comes out; the loop multiplies it with the peak learning rate. Nothing to save,
nothing to restore.
"""

import math


def count_warmup_steps(warmup: float, total_steps: int) -> int:
    """Return the number of steps of the rise.

    Args:
        warmup: Share of all steps, 0 to 1.
        total_steps: Optimizer steps of the run.
    """
    return math.ceil(warmup * total_steps)


def cosine_factor(update: int, *, warmup_steps: int, total_steps: int, min_factor: float = 0.0) -> float:
    """Return the share of the peak learning rate for one update.

    Args:
        update: Updates made before this one, from 0; skipped steps are not counted.
        warmup_steps: The factor rises from 0 to 1 over so many updates.
        total_steps: At this update the factor has come down to ``min_factor``.
        min_factor: End of the descent, 0 to 1.

    Source: transformers.get_cosine_schedule_with_warmup, which is the case ``min_factor = 0``; SGDR, arXiv:1608.03983.
    """
    if update < warmup_steps:
        return update / max(1, warmup_steps)
    progress = min(1.0, (update - warmup_steps) / max(1, total_steps - warmup_steps))
    return min_factor + (1.0 - min_factor) * 0.5 * (1.0 + math.cos(math.pi * progress))
