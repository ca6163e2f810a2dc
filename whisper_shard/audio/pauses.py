"""Stretches of speech become utterances that fit into Whisper's window, cut at the pauses between them."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Generic, Protocol, TypeVar

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


class PauseCutter(Generic[TimedPart]):
    """Collects the parts of an utterance until it is known where it ends."""

    def __init__(self, *, max_seconds: float) -> None:
        """Begin without a part; an utterance is shorter than ``max_seconds``."""
        self._max_seconds = max_seconds
        self.waiting: list[TimedPart] = []
        """The parts that belong to no utterance yet; when one is yielded, those behind it."""

    def add(self, part: TimedPart) -> Iterator[list[TimedPart]]:
        """Take the next part, and yield the utterances that end before it."""
        yield from self.wait_until(part.start_seconds)
        self.waiting.append(part)
        while len(self.waiting) > 1 and self._is_too_long():
            place = _find_pause(self.waiting, self.waiting[0].start_seconds + _SHORT * self._max_seconds)
            ended, self.waiting = self.waiting[:place], self.waiting[place:]
            yield ended

    def wait_until(self, seconds: float) -> Iterator[list[TimedPart]]:
        """Yield the utterance that is over if no part begins before a time."""
        if self.waiting and seconds - self.waiting[-1].end_seconds >= MAX_PAUSE_SECONDS:
            yield from self.finish()

    def finish(self) -> Iterator[list[TimedPart]]:
        """Yield the utterance that is left."""
        ended, self.waiting = self.waiting, []
        if ended:
            yield ended

    def _is_too_long(self) -> bool:
        return self.waiting[-1].end_seconds - self.waiting[0].start_seconds > self._max_seconds - MARGIN_SECONDS


def cut_at_pauses(parts: Iterable[TimedPart], *, max_seconds: float) -> Iterator[list[TimedPart]]:
    """Yield the parts of each utterance, as soon as it is known where it ends.

    An utterance holds as many parts as fit. It ends at the longest pause in its second half, and at every pause of
    MAX_PAUSE_SECONDS; no part is ever divided.

    Args:
        parts: In order; one that is longer than ``max_seconds`` is alone in its utterance.
        max_seconds: An utterance is shorter.
    """
    cutter = PauseCutter[TimedPart](max_seconds=max_seconds)
    for part in parts:
        yield from cutter.add(part)
    yield from cutter.finish()


def _find_pause(parts: Sequence[Timed], earliest: float) -> int:
    """Return before which part the pause is the longest, of those that begin late enough; if none does, the last."""
    places = [i for i in range(1, len(parts)) if parts[i - 1].end_seconds >= earliest] or [len(parts) - 1]
    return max(places, key=lambda i: (parts[i].start_seconds - parts[i - 1].end_seconds, i))
