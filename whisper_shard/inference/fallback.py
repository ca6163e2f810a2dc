"""Decode windows again at higher temperatures where the text repeats itself or the model is not sure of it.

Encoder states are computed once and serve all attempts.

Source: decode_with_fallback in openai/whisper transcribe.py; arXiv:2212.04356, section 4.5.
"""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from whisper_shard.inference.window_decoder import Hypothesis, WindowDecoder
from whisper_shard.keyed_random import draw_uniform

TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
"""Source: openai/whisper transcribe.py, and the thresholds below."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FallbackRules:
    """When a window is decoded again, and when it is taken for silence; None: this rule is not used."""

    temperatures: tuple[float, ...] = TEMPERATURES
    """Tried in this order."""
    max_compression_ratio: float | None = 2.4
    """A text that can be compressed more repeats itself."""
    min_avg_logprob: float | None = -1.0
    """Below, the model is not sure of the text."""
    max_no_speech: float | None = 0.6
    """Nobody speaks if the probability of silence is higher and the model is not sure of the text."""

    def is_silent(self, found: Hypothesis) -> bool:
        """Return whether a window holds no speech."""
        return (
            self.max_no_speech is not None
            and self.min_avg_logprob is not None
            and found.no_speech_probability > self.max_no_speech
            and found.avg_logprob < self.min_avg_logprob
        )

    def is_doubtful(self, found: Hypothesis, ratio: float) -> bool:
        """Return whether a text should be decoded again; a silent window should not."""
        repeats = self.max_compression_ratio is not None and ratio > self.max_compression_ratio
        unsure = self.min_avg_logprob is not None and found.avg_logprob < self.min_avg_logprob
        return (repeats or unsure) and not self.is_silent(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodedWindow:
    """The hypothesis of a window that was kept."""

    hypothesis: Hypothesis
    """Tokens and their probability."""
    temperature: float
    """At which it was decoded."""
    compression_ratio: float
    """Of its text."""
    is_silent: bool
    """Whether it is taken for silence, and its text is not used."""


def decode_with_fallback(
    decoder: WindowDecoder,
    encoder_states: Tensor,
    prefixes: Sequence[Sequence[int]],
    *,
    names: Sequence[str],
    rules: FallbackRules,
    max_new_tokens: int,
    decode_text: Callable[[Sequence[int]], str],
) -> list[DecodedWindow]:
    """Return what was decoded in each window.

    Args:
        decoder: Decodes at one temperature.
        encoder_states: (B, T // 2, D).
        prefixes: Tokens before each text.
        names: Name of each window, by which its random numbers are keyed.
        rules: Temperatures and thresholds.
        max_new_tokens: Cap of a hypothesis.
        decode_text: Turns tokens into text.
    """
    kept: dict[int, DecodedWindow] = {}
    rows = list(range(len(prefixes)))
    for temperature in rules.temperatures:
        draws = [draw_uniform(max_new_tokens, "window", names[row], f"{temperature:g}") for row in rows]
        found = decoder.decode(
            encoder_states if len(rows) == len(prefixes) else encoder_states[torch.tensor(rows)],
            [prefixes[row] for row in rows],
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            draws=draws,
        )
        doubtful = []
        for row, hypothesis in zip(rows, found, strict=True):
            ratio = compression_ratio(decode_text(hypothesis.token_ids))
            kept[row] = DecodedWindow(
                hypothesis=hypothesis,
                temperature=temperature,
                compression_ratio=ratio,
                is_silent=rules.is_silent(hypothesis),
            )
            if rules.is_doubtful(hypothesis, ratio):
                doubtful.append(row)
        rows = doubtful
        if not rows:
            break
    return [kept[row] for row in range(len(prefixes))]


def compression_ratio(text: str) -> float:
    """Return how many times shorter a text becomes by zlib. Source: openai/whisper utils.py."""
    content = text.encode()
    return len(content) / len(zlib.compress(content))
