"""Confidence intervals of error rates by resampling utterances.

Utterances are drawn with replacement; errors and reference units of an utterance are drawn together.

Source: Bisani and Ney, "Bootstrap estimates for confidence intervals in ASR performance evaluation", ICASSP 2004.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

BOOTSTRAP_SAMPLES = 2000
"""Resampled corpora behind an interval."""
_DRAWS_AT_ONCE = 4_000_000  # 32 MB of row numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedComparison:
    """The difference of two systems on the same utterances."""

    difference: float
    """Error rate of the second minus error rate of the first."""
    interval: tuple[float, float]
    """Differences that 95 % of resampled corpora lie between."""
    p_second_worse: float
    """Share of resampled corpora in which the second has the higher error rate; ties count half."""


def bootstrap_interval(
    errors: ArrayLike,
    num_reference: ArrayLike,
    *,
    samples: int = BOOTSTRAP_SAMPLES,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the error rates that ``level`` of resampled corpora lie between.

    Args:
        errors: (N,) errors of each utterance.
        num_reference: (N,) reference units of each utterance.
        samples: Resampled corpora.
        level: 0 to 1.
        seed: Seed of the draws.
    """
    if np.size(errors) == 0:
        return (0.0, 0.0)
    return _middle(_resampled_rates(errors, num_reference, samples, seed), level)


def paired_bootstrap(
    first_errors: ArrayLike,
    second_errors: ArrayLike,
    num_reference: ArrayLike,
    *,
    samples: int = BOOTSTRAP_SAMPLES,
    level: float = 0.95,
    seed: int = 0,
) -> PairedComparison:
    """Compare two systems on the same utterances; each resampled corpus is the same for both.

    Args:
        first_errors: (N,) errors of one system in each utterance.
        second_errors: (N,) errors of the other.
        num_reference: (N,) reference units of each utterance.
        samples: Resampled corpora.
        level: 0 to 1.
        seed: Seed of the draws.
    """
    more = np.asarray(second_errors, np.float64) - np.asarray(first_errors, np.float64)
    differences = _resampled_rates(more, num_reference, samples, seed)
    return PairedComparison(
        difference=float(more.sum() / max(np.sum(num_reference), 1)),
        interval=_middle(differences, level),
        p_second_worse=float(np.mean(differences > 0) + 0.5 * np.mean(differences == 0)),
    )


def _middle(values: NDArray[np.float64], level: float) -> tuple[float, float]:
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(values, [tail, 1.0 - tail])
    return float(low), float(high)


def _resampled_rates(errors: ArrayLike, num_reference: ArrayLike, samples: int, seed: int) -> NDArray[np.float64]:
    """Return the error rate of each resampled corpus; some at a time, so that a long corpus needs little memory."""
    errors, totals = np.asarray(errors, np.float64), np.asarray(num_reference, np.float64)
    rng = np.random.default_rng(seed)
    size = len(errors)
    rates = np.empty(samples)
    at_once = max(1, math.ceil(_DRAWS_AT_ONCE / size))
    for start in range(0, samples, at_once):
        rows = rng.integers(0, size, size=(min(at_once, samples - start), size))
        rates[start : start + len(rows)] = errors[rows].sum(axis=1) / np.maximum(totals[rows].sum(axis=1), 1.0)
    return rates
