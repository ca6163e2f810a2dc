"""Hypotheses that are no transcripts: empty ones, ones cut off at the cap, and ones that repeat themselves.

A few of them explain many a high error rate, and in use they are worse than their words count: nobody can read them.
"""

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from whisper_shard.score.evaluation import EvaluatedUtterance
from whisper_shard.score.wer import UtteranceScore
from whisper_shard.text.repeats import find_repeated_phrase

LOOP_WORDS = 20
"""Words of the longest phrase whose repetition is a loop."""
LOOP_TIMES = 3
"""Times in a row that a phrase may stand."""
LOOP_RATIO = 2.4
"""Bytes of a text over those of its zlib form, above which it is a loop. Source: openai/whisper transcribe.py."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputCounts:
    """How many hypotheses of a corpus are of which kind; one can be of several."""

    num_utterances: int
    """All of them."""
    num_empty: int
    """Without any word, although the reference has some."""
    num_capped: int
    """Cut off at the cap of tokens."""
    num_looping: int
    """With a phrase over and over that the reference does not have so."""
    num_silent: int
    """References without any word: nothing is said."""
    num_invented: int
    """Hypotheses with words for those."""


def count_outputs(utterances: Sequence[EvaluatedUtterance], scores: Iterable[UtteranceScore]) -> OutputCounts:
    """Count kinds of hypotheses.

    Args:
        utterances: Sorted by key.
        scores: Of the same utterances in the same order.
    """
    rows = list(zip(utterances, scores, strict=True))
    return OutputCounts(
        num_utterances=len(rows),
        num_empty=sum(is_empty(score) for _, score in rows),
        num_capped=sum(row.hit_cap for row, _ in rows),
        num_looping=sum(is_looping(score) for _, score in rows),
        num_silent=sum(not score.reference for _, score in rows),
        num_invented=sum(is_invented(score) for _, score in rows),
    )


def is_empty(row: UtteranceScore) -> bool:
    """Return whether nothing was recognized where something was said."""
    return bool(row.reference) and not row.hypothesis


def is_invented(row: UtteranceScore) -> bool:
    """Return whether something was recognized where nothing is said."""
    return bool(row.hypothesis) and not row.reference


def is_looping(row: UtteranceScore) -> bool:
    """Return whether a hypothesis repeats itself, and its reference does not."""
    return _repeats_itself(row.hypothesis) and not _repeats_itself(row.reference)


def _repeats_itself(text: str) -> bool:
    words = text.split()
    if find_repeated_phrase(words, max_words=LOOP_WORDS, max_times=LOOP_TIMES) is not None:
        return True
    content = text.encode()
    return len(content) > LOOP_RATIO * len(zlib.compress(content))
