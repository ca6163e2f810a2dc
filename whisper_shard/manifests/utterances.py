"""Cues become utterances that fit into Whisper's window, cut at the pauses between them."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from operator import attrgetter

from whisper_shard.manifests.cues import Cue

MAX_PAUSE_SECONDS = 2.0
"""A pause of at least so long ends an utterance: nobody knows what is heard in it."""
MAX_OVERLAP_SECONDS = 0.2
"""Cues that overlap by less follow each other; those that overlap by more are said at once, and become one."""
MARGIN_SECONDS = 0.02
"""An utterance stays so much below the limit, since its ends are rounded to samples."""
_SHORT = 0.5  # share of the limit before which no utterance is cut at a pause that is not long


def check_cues(cues: Sequence[Cue], *, max_seconds: float) -> list[Cue]:
    """Return the cues in the order in which they are said, with a fault where one cannot be used.

    Args:
        cues: As they lie in the file; those without a text are left out.
        max_seconds: Longer cues have a fault.
    """
    known, place = list[Cue](), 0.0
    for cue in cues:
        if cue.fault:  # its times are not known: it lies behind the cue before it
            known.append(replace(cue, start_seconds=place, end_seconds=place))
        elif cue.text:
            place = max(0.0, cue.end_seconds)
            known.append(replace(cue, fault=_find_fault(cue, max_seconds)))
    merged = list[Cue]()
    for cue in sorted(known, key=attrgetter("start_seconds")):
        if merged and not cue.fault and not merged[-1].fault and cue.start_seconds < merged[-1].end_seconds:
            merged[-1:] = _merge(merged[-1], cue, max_seconds)
        else:
            merged.append(cue)
    return merged


def cut_utterances(cues: Sequence[Cue], *, max_seconds: float) -> Iterator[Sequence[Cue]]:
    """Yield the cues of each utterance; one with a fault is alone, and no utterance reaches over it.

    An utterance holds as many cues as fit. It ends at the longest pause in its second half, and at every pause of
    MAX_PAUSE_SECONDS; no cue is ever divided.

    Args:
        cues: From `check_cues`.
        max_seconds: An utterance is shorter.
    """
    waiting = list[Cue]()
    for cue in cues:
        if waiting and (cue.fault or waiting[-1].fault or _pause(waiting[-1], cue) >= MAX_PAUSE_SECONDS):
            yield waiting
            waiting = []
        while waiting and cue.end_seconds - waiting[0].start_seconds > max_seconds - MARGIN_SECONDS:
            place = _find_pause([*waiting, cue], waiting[0].start_seconds + _SHORT * max_seconds)
            yield waiting[:place]
            waiting = waiting[place:]
        waiting.append(cue)
    if waiting:
        yield waiting


def _find_fault(cue: Cue, max_seconds: float) -> str:
    times = f"from {cue.start_seconds:.3f} s to {cue.end_seconds:.3f} s"
    if cue.start_seconds < 0:
        return f"{times}: begins before the recording does"
    if cue.end_seconds <= cue.start_seconds:
        return f"{times}: ends where it begins, or before"
    return _too_long(cue, max_seconds)


def _too_long(cue: Cue, max_seconds: float) -> str:
    seconds = cue.end_seconds - cue.start_seconds
    if seconds <= max_seconds - MARGIN_SECONDS:
        return ""
    return f"from {cue.start_seconds:.3f} s to {cue.end_seconds:.3f} s: {seconds:.1f} s, limit {max_seconds:g} s"


def _merge(first: Cue, second: Cue, max_seconds: float) -> list[Cue]:
    """Return two cues that overlap: one after the other, or as one."""
    cut = second.start_seconds
    if first.end_seconds - cut <= MAX_OVERLAP_SECONDS and cut > first.start_seconds and second.end_seconds > cut:
        return [replace(first, end_seconds=cut), second]
    end = max(first.end_seconds, second.end_seconds)
    both = Cue(start_seconds=first.start_seconds, end_seconds=end, text=f"{first.text} {second.text}")
    return [replace(both, fault=_too_long(both, max_seconds))]


def _pause(before: Cue, after: Cue) -> float:
    return after.start_seconds - before.end_seconds


def _find_pause(cues: Sequence[Cue], earliest: float) -> int:
    """Return before which cue the pause is the longest, of those that begin late enough; if none does, the last."""
    places = [i for i in range(1, len(cues)) if cues[i - 1].end_seconds >= earliest] or [len(cues) - 1]
    return max(places, key=lambda i: (_pause(cues[i - 1], cues[i]), i))
