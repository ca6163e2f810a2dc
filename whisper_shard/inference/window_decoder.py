"""Decode windows of recordings with times, greedily or by drawing tokens at a temperature.

Rows of a batch may have prefixes of different lengths, such as a text of what was said before. A row's tokens do not
depend on the other rows: its random numbers are its own.

Source: the loop of openai/whisper decoding.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from whisper_shard.inference.decoder import Caches, InferenceDecoder
from whisper_shard.inference.greedy import CHECK_STEPS, COMPACT_BELOW, SuppressRules
from whisper_shard.inference.timestamps import History, TimestampRules


@dataclass(frozen=True, slots=True, kw_only=True)
class Hypothesis:
    """What was decoded in one window."""

    token_ids: tuple[int, ...]
    """Text and times, without prefix and end token."""
    avg_logprob: float
    """Mean natural logarithm of the probability of a token among those allowed, the end token included."""
    no_speech_probability: float
    """Probability of the token <|nospeech|> after the start token, 0 to 1."""


@dataclass(slots=True)
class _Rows:
    """Rows that are being decoded; tensors have one value a row."""

    numbers: Tensor
    """Row numbers in the whole batch."""
    positions: Tensor
    """Position of the next token in the decoder."""
    caps: Tensor
    """Most tokens of each."""
    history: History
    logprobs: Tensor
    """Sum of the logarithms so far."""
    draws: Tensor | None
    """(N, most tokens) uniform random numbers; None: greedy."""

    def select(self, rows: Tensor) -> "_Rows":
        draws = None if self.draws is None else self.draws[rows]
        return _Rows(
            self.numbers[rows], self.positions[rows], self.caps[rows], self.history.select(rows), self.logprobs[rows],
            draws,
        )  # fmt: skip


class WindowDecoder:
    """Decodes windows with times.

    Args:
        decoder: Prepared weights.
        rules: Tokens never chosen.
        times: Which tokens may follow which.
        start_id: The start token, which every prefix has.
        no_speech_id: The token whose probability after the start token says that nobody speaks.
    """

    def __init__(
        self,
        decoder: InferenceDecoder,
        *,
        rules: SuppressRules,
        times: TimestampRules,
        start_id: int,
        no_speech_id: int,
    ) -> None:
        self._decoder = decoder
        self._times = times
        self._start_id, self._no_speech_id = start_id, no_speech_id
        self._never = torch.tensor(sorted({*rules.always, no_speech_id, times.first_time - 1}), dtype=torch.int64)
        self._max_positions = decoder.max_positions

    @torch.inference_mode()
    def decode(
        self,
        encoder_states: Tensor,
        prefixes: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        draws: Sequence[NDArray[np.float64]] = (),
    ) -> list[Hypothesis]:
        """Return the hypothesis of each window.

        Args:
            encoder_states: (B, T // 2, D).
            prefixes: Tokens before each text, without <|notimestamps|>.
            max_new_tokens: Cap of a hypothesis, end token included; less where the decoder has no more positions.
            temperature: Logits are divided by it before a token is drawn; 0: the most probable token is chosen.
            draws: For a temperature above 0: ``max_new_tokens`` uniform random numbers for each row.
        """
        device, end_id = encoder_states.device, self._times.end_id
        lengths = torch.tensor([len(prefix) for prefix in prefixes], device=device)
        longest = max(map(len, prefixes))
        inputs = torch.full((len(prefixes), longest), end_id)
        for row, prefix in zip(inputs, prefixes, strict=True):
            row[: len(prefix)] = torch.tensor(prefix)
        caches = self._decoder.start(encoder_states, min(longest + max_new_tokens, self._max_positions))
        # Padding behind a prefix is never seen: attention looks back only, and later tokens take its place.
        states = self._decoder.prefill(inputs.to(device), caches)
        every = torch.arange(len(prefixes), device=device)
        starts = (inputs == self._start_id).long().argmax(dim=1).to(device)
        silent = self._decoder.logits(states[every, starts]).softmax(dim=1)[:, self._no_speech_id]
        rows = _Rows(
            numbers=every,
            positions=lengths,
            caps=(self._max_positions - lengths).clamp(max=max_new_tokens),
            history=History.empty(len(prefixes), device),
            logprobs=torch.zeros(len(prefixes), device=device),
            draws=torch.from_numpy(np.stack(list(draws))).to(device) if temperature > 0.0 else None,
        )
        tokens = torch.full((len(prefixes), max_new_tokens + CHECK_STEPS), end_id, device=device)
        sums = self._continue(states[every, lengths - 1], caches, tokens, rows, temperature)
        return self._gather(tokens, sums, silent, (self._max_positions - lengths).clamp(max=max_new_tokens))

    def _continue(self, states: Tensor, caches: Caches, tokens: Tensor, rows: _Rows, temperature: float) -> Tensor:
        """Decode all rows to their end token or cap, write them into ``tokens``, and return their sums of logarithms.

        Args:
            states: (B, D) of the last tokens of the prefixes.
            caches: Filled with the prefixes.
            tokens: (B, enough), filled with the end token.
            rows: All of them.
            temperature: See `decode`.
        """
        check_steps = 1 if tokens.device.type == "cpu" else CHECK_STEPS  # see GreedyDecoder
        sums = torch.zeros(len(tokens), device=tokens.device)
        self._choose(states, tokens, rows, temperature)
        while True:
            sums[rows.numbers] = rows.logprobs
            active = ((rows.history.last != self._times.end_id) & (rows.history.lengths < rows.caps)).nonzero()[:, 0]
            if len(active) == 0:
                return sums
            if len(active) < COMPACT_BELOW * len(rows.numbers):
                caches, rows = caches.select(active), rows.select(active)
            num_positions = min(int(rows.positions.max()) + check_steps, self._max_positions)
            for _ in range(check_steps):
                positions = rows.positions.clamp(max=num_positions - 1)
                states = self._decoder.step(rows.history.last, positions, caches, num_positions)
                rows.positions = rows.positions + 1
                self._choose(states, tokens, rows, temperature)

    def _choose(self, states: Tensor, tokens: Tensor, rows: _Rows, temperature: float) -> None:
        """Choose the next token of every row; ended rows repeat the end token and rows at their cap change nothing."""
        logits = self._decoder.logits(states)
        if self._never.device != logits.device:
            self._never = self._never.to(logits.device)
        logits.index_fill_(1, self._never, -torch.inf)
        self._times.apply(logits, rows.history)
        lengths, end_id = rows.history.lengths, self._times.end_id
        if rows.draws is None:
            chosen = logits.argmax(dim=1)
        else:
            place = lengths.clamp(max=rows.draws.shape[1] - 1)[:, None]
            chosen = draw_tokens(logits, temperature, rows.draws.gather(1, place)[:, 0])
        is_over = ((lengths > 0) & (rows.history.last == end_id)) | (lengths >= rows.caps)
        chosen = torch.where(is_over, end_id, chosen)
        logprobs = logits.gather(1, chosen[:, None])[:, 0] - logits.logsumexp(dim=1)
        rows.logprobs = rows.logprobs + torch.where(is_over, 0.0, logprobs)
        rows.history = rows.history.append(chosen, self._times.first_time)
        tokens[rows.numbers, lengths.clamp(max=tokens.shape[1] - 1)] = chosen

    def _gather(self, tokens: Tensor, sums: Tensor, silent: Tensor, caps: Tensor) -> list[Hypothesis]:
        found = []
        columns = (tokens.tolist(), sums.tolist(), silent.tolist(), caps.tolist())
        for row, total, probability, cap in zip(*columns, strict=True):
            ids = row[: row.index(self._times.end_id)] if self._times.end_id in row[:cap] else row[:cap]
            count = min(len(ids) + 1, cap)
            found.append(Hypothesis(token_ids=tuple(ids), avg_logprob=total / count, no_speech_probability=probability))
        return found


def draw_tokens(logits: Tensor, temperature: float, draws: Tensor) -> Tensor:
    """Return for each row the token at which the sum of probabilities passes a uniform random number.

    Args:
        logits: (N, V); tokens at minus infinity are never drawn.
        temperature: Logits are divided by it.
        draws: (N,) float64 in [0, 1).
    """
    sums = (logits.double() / temperature).softmax(dim=1).cumsum(dim=1)
    wanted = draws[:, None] * sums[:, -1:]
    return torch.searchsorted(sums, wanted, right=True)[:, 0].clamp(max=logits.shape[1] - 1)
