"""Progress events of scoring, and the names of evaluation windows."""

from dataclasses import dataclass
from typing import Literal

Window = Literal["full", "short", "borrowed"]
"""30 s, as short as the batch allows, or that with borrowed silence behind it."""
WINDOW_NAMES = {
    "full": "30 s windows",
    "short": "short windows",
    "borrowed": "short windows with borrowed silence",
}
"""Kinds of windows of an evaluation, as users read them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreProgress:
    """How far scoring has come."""

    window: Window
    """Kind of window at work."""
    num_done: int
    """Utterances decoded in it."""
    num_utterances: int
    """Utterances in all."""
