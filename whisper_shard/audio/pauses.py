"""Stretches of speech become utterances that fit into Whisper's window, cut at the pauses between them."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, TypeVar

MAX_PAUSE_SECONDS = 2.0
"""A pause of at least so long ends an utterance: nobody knows what is heard in it."""
MARGIN_SECONDS = 0.02
"""An utterance stays so much below the limit, since its ends are rounded to samples."""
_SHORT = 0.5  # share of the limit before which no utterance is cut at a pause that is not long


class Timed(Protocol):
    """What has a place in a recording."""

    @property
    def start_seconds(self) -> float:
        """Where it begins."""
        ...

    @property
    def end_seconds(self) -> float:
        """Where it ends."""
        ...


TimedPart = TypeVar("TimedPart", bound=Timed)


def cut_at_pauses(parts: Iterable[TimedPart], *, max_seconds: float) -> Iterator[list[TimedPart]]:
    """Yield the parts of each utterance, as soon as it is known where it ends.

    An utterance holds as many parts as fit. It ends at the longest pause in its second half, and at every pause of
    MAX_PAUSE_SECONDS; no part is ever divided.

    Args:
        parts: In order; none is as long as ``max_seconds``, or it is alone in an utterance.
        max_seconds: An utterance is shorter.
    """
    waiting = list[TimedPart]()
    for part in parts:
        if waiting and _pause(waiting[-1], part) >= MAX_PAUSE_SECONDS:
            yield waiting
            waiting = []
        while waiting and part.end_seconds - waiting[0].start_seconds > max_seconds - MARGIN_SECONDS:
            place = _find_pause([*waiting, part], waiting[0].start_seconds + _SHORT * max_seconds)
            yield waiting[:place]
            waiting = waiting[place:]
        waiting.append(part)
    if waiting:
        yield waiting


def _pause(before: Timed, after: Timed) -> float:
    return after.start_seconds - before.end_seconds


def _find_pause(parts: Sequence[Timed], earliest: float) -> int:
    """Return before which part the pause is the longest, of those that begin late enough; if none does, the last."""
    places = [i for i in range(1, len(parts)) if parts[i - 1].end_seconds >= earliest] or [len(parts) - 1]
    return max(places, key=lambda i: (_pause(parts[i - 1], parts[i]), i))
