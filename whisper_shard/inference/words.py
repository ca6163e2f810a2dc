"""When each word is said: cross-attention of the heads that follow the audio, and the path along which it moves on.

The text of a window is given to the decoder once more, without times. Some heads attend to the audio of the word that
comes next; the cheapest path through their attention that never goes back gives each token its place.

Source: find_alignment and dtw of openai/whisper timing.py.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from whisper_shard.inference.decoder import InferenceDecoder

MEDIAN_WIDTH = 7
"""Encoder positions over which attention is smoothed. Source: openai/whisper timing.py."""
POSITIONS_PER_SECOND = 50
"""Encoder positions."""
OPENING, CLOSING = "\"'\u201c\u00bf([{-", "\"'.\u3002,\uff0c!\uff01?\uff1f:\uff1a\u201d)]}\u3001"
"""Signs that belong to the word after them, and to the word before them. Source: openai/whisper transcribe.py."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """A word of a transcript."""

    start: float
    """Where it begins, in seconds."""
    end: float
    """Where it ends."""
    word: str
    """With the space in front and the signs around it."""
    probability: float
    """Mean probability of its tokens, 0 to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AlignedTokens:
    """Tokens of a text with their places in a window."""

    times: NDArray[np.float64]
    """(N + 1,) where each token begins, in seconds, and where the last one ends."""
    probabilities: NDArray[np.float64]
    """(N,) of each token, among all of text."""


@torch.inference_mode()
def align_tokens(
    decoder: InferenceDecoder,
    encoder_states: Tensor,
    prefix: Sequence[int],
    text: Sequence[int],
    *,
    end_id: int,
    heads: Sequence[tuple[int, int]],
    num_frames: int,
) -> AlignedTokens:
    """Return when each token of a text is said.

    Args:
        decoder: Prepared weights.
        encoder_states: (1, T // 2, D).
        prefix: Tokens before the text, the last one <|notimestamps|>.
        text: Tokens of the text, at least one.
        end_id: The end token.
        heads: Layer and head of those that follow the audio.
        num_frames: Log-mel frames of audio in the window.
    """
    inputs = torch.tensor([[*prefix, *text, end_id]], device=encoder_states.device)
    states, weights = decoder.attend_to_audio(encoder_states, inputs, heads)
    weights = weights[0, :, :, : max(num_frames // 2, 1)].float()
    weights = (weights - weights.mean(dim=1, keepdim=True)) / weights.std(dim=1, keepdim=True, unbiased=False)
    matrix = smooth(weights).mean(dim=0)[len(prefix) - 1 : -1]
    rows, places = find_path(-matrix.cpu().numpy())
    begins = np.flatnonzero(np.diff(rows, prepend=-1))
    # The state before a token gives its probability; <|notimestamps|> comes before the first.
    logits = decoder.logits(states[0, len(prefix) - 1 : -2])[:, :end_id].float()
    chosen = logits.softmax(dim=1).gather(1, inputs[0, len(prefix) : -1, None])[:, 0]
    return AlignedTokens(
        times=places[begins] / POSITIONS_PER_SECOND, probabilities=chosen.cpu().numpy().astype(np.float64)
    )


def smooth(weights: Tensor) -> Tensor:
    """Return the median over MEDIAN_WIDTH positions around each, (heads, L, positions); few positions stay as they are.

    Args:
        weights: (heads, L, positions).
    """
    half = MEDIAN_WIDTH // 2
    if weights.shape[-1] <= half:
        return weights
    padded = functional.pad(weights, (half, half), mode="reflect")
    return padded.unfold(-1, MEDIAN_WIDTH, 1).sort(dim=-1).values[..., half]


def find_path(costs: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return rows and columns of the cheapest path from the first cell of a matrix to the last, which never goes back.

    All cells of a diagonal depend on the two before it only, so a diagonal is computed at once.
    """
    num_rows, num_columns = costs.shape
    total = np.full((num_rows + 1, num_columns + 1), np.inf, np.float32)
    total[0, 0] = 0
    came_from = np.full((num_rows + 1, num_columns + 1), 2, np.int8)
    came_from[:, 0] = 1
    came_from[0] = 2
    for diagonal in range(2, num_rows + num_columns + 1):
        i = np.arange(max(1, diagonal - num_columns), min(num_rows, diagonal - 1) + 1)
        j = diagonal - i
        both, above, left = total[i - 1, j - 1], total[i - 1, j], total[i, j - 1]
        is_both = (both < above) & (both < left)
        is_above = ~is_both & (above < both) & (above < left)
        came_from[i, j] = np.where(is_both, 0, np.where(is_above, 1, 2))
        total[i, j] = costs[i - 1, j - 1] + np.where(is_both, both, np.where(is_above, above, left))
    path = []
    row, column = num_rows, num_columns
    while row > 0 or column > 0:
        path.append((row - 1, column - 1))
        step = came_from[row, column]
        row, column = row - (step != 2), column - (step != 1)
    rows, columns = np.array(path[::-1], np.int64).T
    return rows, columns


def split_words(
    token_ids: Sequence[int], decode: Callable[[Sequence[int]], str], *, has_spaces: bool
) -> list[tuple[str, int]]:
    """Return the words of a text, each with the number of its tokens.

    Args:
        token_ids: Tokens of the text.
        decode: Turns tokens into text.
        has_spaces: Whether the language puts spaces between words; otherwise each character is a word.
    """
    words: list[tuple[str, int]] = []
    waiting: list[int] = []
    for token in token_ids:
        waiting.append(token)
        text = decode(waiting)
        if "\ufffd" in text:  # a character that goes on in the next token
            continue
        _add_word(words, text, len(waiting), has_spaces=has_spaces)
        waiting = []
    if waiting:
        _add_word(words, decode(waiting), len(waiting), has_spaces=has_spaces)
    return words


def _add_word(words: list[tuple[str, int]], text: str, count: int, *, has_spaces: bool) -> None:
    """Add a piece of text as a new word, or to the last one where both are one word."""
    before = words[-1][0] if words else ""
    is_opened = before.strip() != "" and before.strip() in OPENING and not text.startswith(" ")
    goes_on = (has_spaces and not text.startswith(" ")) or (text.strip() != "" and text in CLOSING)
    if words and (is_opened or goes_on):
        words[-1] = (before + text, words[-1][1] + count)
    else:
        words.append((text, count))
