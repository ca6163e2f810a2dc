"""How well the times of hypotheses agree with those of the phrases in the data.

Each time of a phrase, a beginning or an end, is compared with the nearest time of the hypothesis: phrases need not be
cut at the same places to be timed well. Only utterances of several phrases count; the times of one that is all of its
utterance say nothing.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from whisper_shard.score.evaluation import EvaluatedUtterance

NEAR_SECONDS = 0.2
"""A time is near another one up to this distance. Source: the collar of 0.2 s that is common for word boundaries."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeErrors:
    """Times of a corpus against those of its hypotheses."""

    num_utterances: int
    """Utterances of several phrases."""
    num_times: int
    """Beginnings and ends of phrases in them."""
    median_seconds: float
    """Distance from the nearest time of the hypothesis in the middle of all; NaN: there is none."""
    share_near: float
    """Share of times that are at most NEAR_SECONDS from one of the hypothesis; NaN: there is none."""


def measure_times(utterances: Iterable[EvaluatedUtterance]) -> TimeErrors | None:
    """Return how far the times are from each other; None: the hypotheses have none.

    A hypothesis without any phrase is as far away as its utterance is long.
    """
    rows = [row for row in utterances if row.phrases is not None]
    if not rows:
        return None
    distances: list[float] = []
    num_utterances = 0
    for row in rows:
        if len(row.reference_phrases) < 2:
            continue
        num_utterances += 1
        times = np.array([time for phrase in row.phrases or () for time in (phrase.start, phrase.end)])
        said = [time for phrase in row.reference_phrases for time in (phrase.start, phrase.end)]
        distances += [float(np.abs(times - time).min()) if len(times) else row.seconds for time in said]
    found = np.array(distances)
    return TimeErrors(
        num_utterances=num_utterances,
        num_times=len(found),
        median_seconds=float(np.median(found)) if len(found) else float("nan"),
        share_near=float((found <= NEAR_SECONDS).mean()) if len(found) else float("nan"),
    )


def describe_times(found: TimeErrors) -> str:
    """Return the result in a few words."""
    if not found.num_times:
        return "with times; no utterance of the data has several phrases to compare them with"
    return (
        f"{found.share_near:.1%} of {found.num_times:,} times of phrases within {NEAR_SECONDS:g} s, in the middle "
        f"{found.median_seconds:.2f} s away"
    )
