"""Whisper's rules for times: which tokens may follow which, and how a window's tokens become segments.

    <|0.00|> text <|4.20|><|4.20|> more text <|9.00|><|9.00|> cut off by the win

Times stand in pairs, an end and the next beginning, and never decrease. Where all times together are more probable than
any one token of text, a time follows. The window after this one begins at the last pair, so that words at the end of a
window are heard again in full.

Source: ApplyTimestampRules of openai/whisper decoding.py, and the loop of openai/whisper transcribe.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from whisper_shard.model.labels import TIME_STEP_SECONDS
from whisper_shard.utterance import FRAMES_PER_SECOND

LATEST_START = 50
"""Steps of 0.02 s after which the first segment may not begin. Source: max_initial_timestamp of openai/whisper."""
FRAMES_PER_STEP = round(TIME_STEP_SECONDS * FRAMES_PER_SECOND)
"""Log-mel frames between two time tokens: 2."""


class History(NamedTuple):
    """What was chosen so far in each row of a batch, as far as the rules need it."""

    last: Tensor
    """(N,) last token; anything before the first."""
    before_last: Tensor
    """(N,) the token before it; anything before the second."""
    newest_time: Tensor
    """(N,) the last time token; -1: none."""
    lengths: Tensor
    """(N,) tokens chosen so far."""

    @classmethod
    def empty(cls, num_rows: int, device: torch.device) -> "History":
        """Return the history before the first token."""
        none = torch.full((num_rows,), -1, device=device)
        return cls(none, none, none, torch.zeros(num_rows, dtype=torch.int64, device=device))

    def append(self, chosen: Tensor, first_time: int) -> "History":
        """Return the history with one more token in every row."""
        newest = torch.where(chosen >= first_time, chosen, self.newest_time)
        return History(chosen, self.last, newest, self.lengths + 1)

    def select(self, rows: Tensor) -> "History":
        """Return the history of some rows only."""
        return History(*(values[rows] for values in self))


@dataclass(frozen=True, slots=True, kw_only=True)
class TimestampRules:
    """Which tokens may come next, where texts have times."""

    first_time: int
    """Token <|0.00|>; all tokens from here on are times."""
    end_id: int
    """The end token; all tokens before it are text."""
    latest_start: int | None = LATEST_START
    """Steps of 0.02 s after which the first segment may not begin; None: any."""

    def apply(self, logits: Tensor, history: History) -> None:
        """Forbid in place what may not come next.

        Args:
            logits: (N, V) float32, tokens that are never chosen already at minus infinity.
            history: Of the same rows.
        """
        times, text = logits[:, self.first_time :], logits[:, : self.end_id]
        is_first = history.lengths == 0
        ends_with_time = (history.lengths > 0) & (history.last >= self.first_time)
        ends_with_pair = ends_with_time & ((history.lengths < 2) | (history.before_last >= self.first_time))
        is_end_open = ends_with_time & ~ends_with_pair
        times.masked_fill_(ends_with_pair[:, None], -torch.inf)
        text.masked_fill_(is_end_open[:, None], -torch.inf)
        # A segment is never empty: its end is later than its beginning. The next one may begin where it ends.
        earliest = torch.where(history.newest_time < 0, self.first_time, history.newest_time + (~is_end_open).long())
        numbers = torch.arange(self.first_time, logits.shape[1], device=logits.device)
        times.masked_fill_(numbers < earliest[:, None], -torch.inf)
        if self.latest_start is not None:
            times[:, self.latest_start + 1 :].masked_fill_(is_first[:, None], -torch.inf)
        before_times = logits[:, : self.first_time]
        is_time_likelier = times.logsumexp(dim=1) > before_times.amax(dim=1)
        before_times.masked_fill_((is_time_likelier | is_first)[:, None], -torch.inf)


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedTokens:
    """One segment of a window."""

    start: int
    """Frame of the window at which it begins."""
    end: int
    """Frame at which it ends."""
    token_ids: tuple[int, ...]
    """Its tokens with those of its times."""


def split_segments(
    token_ids: Sequence[int], *, first_time: int, num_frames: int, keep_rest: bool = False
) -> tuple[tuple[TimedTokens, ...], int]:
    """Return the segments of a window, and how many frames later the next window begins.

    A last segment without an end is left to the next window, unless there is no pair of times at all: then everything
    is one segment, which ends with the last time or the window.

    Args:
        token_ids: Chosen tokens, without the end token.
        first_time: Token <|0.00|>.
        num_frames: Frames of audio in the window.
        keep_rest: There is no next window that hears the same again: a last segment ends with the window.
    """
    is_time = [token >= first_time for token in token_ids]
    cuts = [i for i in range(1, len(is_time)) if is_time[i - 1] and is_time[i]]
    if not cuts:
        return (_whole_window(token_ids, first_time, num_frames),), num_frames
    has_end = is_time[-2:] == [False, True]
    cuts += [len(token_ids)] if has_end else []
    segments = tuple(
        TimedTokens(
            start=_frame(token_ids[start], first_time),
            end=_frame(token_ids[end - 1], first_time),
            token_ids=tuple(token_ids[start:end]),
        )
        for start, end in zip([0, *cuts], cuts, strict=False)
    )
    rest = tuple(token_ids[cuts[-1] :])
    if keep_rest and rest and not is_time[-1]:
        last = TimedTokens(start=_frame(rest[0], first_time), end=num_frames, token_ids=rest)
        return (*segments, last), num_frames
    # A single time at the end says that no speech comes after it.
    return segments, num_frames if has_end else segments[-1].end


def _whole_window(token_ids: Sequence[int], first_time: int, num_frames: int) -> TimedTokens:
    times = [token for token in token_ids if token >= first_time]
    end = num_frames
    if times and times[-1] != first_time:
        end = _frame(times[-1], first_time)
    return TimedTokens(start=0, end=end, token_ids=tuple(token_ids))


def _frame(token: int, first_time: int) -> int:
    return (token - first_time) * FRAMES_PER_STEP
