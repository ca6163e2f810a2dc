"""Confidence intervals of error rates by resampling utterances.

Source: Bisani and Ney, "Bootstrap estimates for confidence intervals in ASR performance evaluation", ICASSP 2004.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from whisper_shard.score.alignment import ErrorCounts

BOOTSTRAP_SAMPLES = 2000
"""Resamplings of the corpus behind an interval."""


def bootstrap_interval(
    counts: Sequence[ErrorCounts], *, samples: int = BOOTSTRAP_SAMPLES, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Return the error rates that ``level`` of resampled corpora lie between.

    Utterances are drawn with replacement; errors and reference units are drawn together.

    Source: Bisani and Ney, "Bootstrap estimates for confidence intervals in ASR performance evaluation", ICASSP 2004.
    """
    if not counts:
        return (0.0, 0.0)
    errors, totals = as_arrays(counts)
    rates = resampled_rates(errors, totals, samples, seed)
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(rates, [tail, 1.0 - tail])
    return float(low), float(high)


def as_arrays(counts: Sequence[ErrorCounts]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return errors and reference units of each utterance, (N,) each."""
    errors = np.array([count.errors for count in counts], dtype=np.float64)
    totals = np.array([count.num_reference for count in counts], dtype=np.float64)
    return errors, totals


def resampled_rates(
    errors: NDArray[np.float64], totals: NDArray[np.float64], samples: int, seed: int
) -> NDArray[np.float64]:
    """Return one rate a resampling; the utterances are drawn in slices, so that a long corpus needs little memory."""
    rng = np.random.default_rng(seed)
    size = len(errors)
    rates = np.empty(samples)
    at_once = max(1, math.ceil(4_000_000 / size))
    for start in range(0, samples, at_once):
        rows = rng.integers(0, size, size=(min(at_once, samples - start), size))
        rates[start : start + len(rows)] = errors[rows].sum(axis=1) / np.maximum(totals[rows].sum(axis=1), 1.0)
    return rates
