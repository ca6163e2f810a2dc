"""Progress events of scoring, and the names of evaluation windows."""

from dataclasses import dataclass
from typing import Literal

Window = Literal["full", "short", "borrowed", "given", "long"]
"""The encoder's window: 30 s, as short as the batch allows, or short with borrowed silence; given: not ours; long:
window after window through a long recording."""
WINDOW_NAMES = {
    "full": "30 s windows",
    "short": "short windows",
    "borrowed": "short windows with borrowed silence",
    "given": "given hypotheses",
    "long": "long recordings",
}
"""Kinds of windows in messages and reports."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreProgress:
    """Progress of scoring, after each batch."""

    window: Window
    """Kind of window."""
    num_done: int
    """Utterances decoded in this kind of window."""
    num_utterances: int
    """Utterances to decode."""
