"""Cues become utterances that fit into Whisper's window, cut at the pauses between them."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from operator import attrgetter

from whisper_shard.audio.pauses import MARGIN_SECONDS, cut_at_pauses
from whisper_shard.manifests.cues import Cue

MAX_OVERLAP_SECONDS = 0.2
"""Cues that overlap by less follow each other; those that overlap by more are said at once, and become one."""


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

    Args:
        cues: From `check_cues`.
        max_seconds: An utterance is shorter; see `cut_at_pauses`.
    """
    for has_fault, run in groupby(cues, key=lambda cue: bool(cue.fault)):
        if has_fault:
            yield from ([cue] for cue in run)
        else:
            yield from cut_at_pauses(run, max_seconds=max_seconds)


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
