"""Greedy decoding in batches: what the model hears, and what it cost to be told.

Where references are known, they serve as a draft: one pass over the reference gives its loss, and at each place what
the model would have said there. As long as that is the reference itself, greedy decoding would have gone the same
way, so the hypothesis begins with all tokens up to the first difference and is decoded step by step only from there.
The answer is that of plain greedy decoding; a model that makes few errors pays for few steps.

Source of the idea: speculative decoding, arXiv:2211.17192, with the reference as the draft.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from whisper_shard.errors import ConfigError
from whisper_shard.inference.decoder import Caches, InferenceDecoder
from whisper_shard.model.device import send
from whisper_shard.model.labels import LabelBatch
from whisper_shard.model.loss import IGNORE_INDEX

CHUNK_LOGITS = 1024
"""Rows of logits held at once: 212 MB at 51,865 tokens."""
COMPACT_BELOW = 0.75
"""Finished rows leave the batch when fewer than this share of its rows still decode."""
CHECK_STEPS = 8
"""On a GPU, steps between two looks at which rows are finished; each look waits for the device."""
UNKNOWN = -1
"""In place of a draft token: nothing is known, so nothing fits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SuppressRules:
    """Tokens that may not be said. Source: `suppress_tokens` and `begin_suppress_tokens` of generation_config."""

    always: tuple[int, ...] = ()
    """Never."""
    at_begin: tuple[int, ...] = ()
    """Not as the first token."""

    @classmethod
    def of(cls, model: Any) -> "SuppressRules":
        """Return the rules a model was saved with."""
        settings = model.generation_config
        return cls(always=tuple(settings.suppress_tokens or ()), at_begin=tuple(settings.begin_suppress_tokens or ()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """Hypotheses of a batch."""

    token_ids: tuple[tuple[int, ...], ...]
    """Tokens of each row, without prefix and end token."""
    hit_cap: tuple[bool, ...]
    """Rows that were cut off before their end token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodedWithLoss:
    """Hypotheses of a batch and the loss of its references."""

    decoded: Decoded
    """Hypotheses, row by row."""
    loss_sum: float
    """Sum of token losses of the references."""
    num_tokens: int
    """Tokens in that sum."""
    num_steps: int
    """Decoding steps that were needed beyond the draft."""


@torch.inference_mode()
def greedy_decode(
    model: Any,
    encoder_hidden: Tensor,
    prefix_ids: Tensor,
    *,
    max_new_tokens: int = 128,
    rules: SuppressRules | None = None,
    dtype: torch.dtype = torch.float32,
) -> Decoded:
    """Return what the model says, always the most probable token, without any draft.

    Args:
        model: WhisperForConditionalGeneration.
        encoder_hidden: (B, T // 2, D), from `model.encode`.
        prefix_ids: (B, P), from `Labeler.prefix_batch`.
        max_new_tokens: Longest hypothesis, end token included.
        rules: Tokens not to be said; None: those the model was saved with.
        dtype: Format of matrix products.

    Raises:
        ConfigError: Prefix and hypothesis do not fit into the decoder's positions.
    """
    labels = torch.full_like(prefix_ids, IGNORE_INDEX)
    labels[:, -1] = UNKNOWN
    decoder = InferenceDecoder(model, dtype)
    greedy = GreedyDecoder(decoder, end_id=end_token(model), rules=rules or SuppressRules.of(model))
    return greedy.decode(encoder_hidden, prefix_ids, labels, max_new_tokens=max_new_tokens).decoded


def end_token(model: Any) -> int:
    """Return the id of the end token."""
    end = model.generation_config.eos_token_id
    return int(end[0] if isinstance(end, list) else end)


class GreedyDecoder:
    """Greedy decoding with drafts, for many batches of one state of the model.

    Args:
        decoder: Prepared weights.
        end_id: The end token.
        rules: Tokens not to be said.
    """

    def __init__(self, decoder: InferenceDecoder, *, end_id: int, rules: SuppressRules) -> None:
        self._decoder = decoder
        self._end_id = end_id
        self._banned = [torch.tensor(ids, dtype=torch.int64) for ids in (rules.always, rules.at_begin)]

    def decode_labels(
        self, encoder_hidden: Tensor, labels: LabelBatch, *, max_new_tokens: int, bias: Tensor | None = None
    ) -> DecodedWithLoss:
        """Return loss and hypotheses of a batch whose references are known; see `decode`."""
        device = encoder_hidden.device
        inputs, targets = labels.decoder_input_ids.to(device), labels.labels.to(device)
        return self.decode(encoder_hidden, inputs, targets, max_new_tokens=max_new_tokens, bias=bias)

    @torch.inference_mode()
    def decode(
        self,
        encoder_hidden: Tensor,
        inputs: Tensor,
        labels: Tensor,
        *,
        max_new_tokens: int,
        bias: Tensor | None = None,
    ) -> DecodedWithLoss:
        """Return loss and hypotheses of one batch.

        Args:
            encoder_hidden: (B, T // 2, D).
            inputs: (B, L) prefix and draft; all prefixes have one length.
            labels: (B, L) what follows each input: a token, UNKNOWN, or IGNORE_INDEX within the prefix and
                behind the end.
            max_new_tokens: Longest hypothesis, end token included.
            bias: Added to the scores of each encoder position, (1, 1, 1, T // 2); None: nothing.

        Raises:
            ConfigError: Prefix and hypothesis do not fit into the decoder's positions.
        """
        prefix = int((labels[0] == IGNORE_INDEX).int().argmin()) + 1
        room = max(prefix + max_new_tokens, inputs.shape[1])
        if room > self._decoder.max_positions:
            raise ConfigError(
                f"--max-new-tokens {max_new_tokens}: with a prefix of {prefix} tokens the decoder has room for "
                f"{self._decoder.max_positions - prefix}"
            )
        caches = self._decoder.begin(encoder_hidden, room, bias)
        states = self._decoder.read(inputs, caches)
        said, loss_sum, num_tokens = self._read_draft(states, labels, prefix)
        tokens, num_steps = self._continue(
            caches, labels[:, prefix - 1 :], said[:, prefix - 1 :], prefix=prefix, max_new_tokens=max_new_tokens
        )
        return DecodedWithLoss(
            decoded=self._cut(tokens, max_new_tokens), loss_sum=loss_sum, num_tokens=num_tokens, num_steps=num_steps
        )

    def _read_draft(self, states: Tensor, labels: Tensor, prefix: int) -> tuple[Tensor, float, int]:
        """Return what the model says behind each input, (B, L), and loss sum and number of tokens of the labels."""
        kept = (labels.flatten() != IGNORE_INDEX).nonzero()[:, 0]
        said = torch.full_like(labels.flatten(), IGNORE_INDEX - 1)
        losses = torch.zeros((), dtype=torch.float64, device=labels.device)
        for part in torch.split(kept, CHUNK_LOGITS):
            logits = self._decoder.logits(states.flatten(0, 1)[part])
            losses += functional.cross_entropy(logits, labels.flatten()[part], ignore_index=UNKNOWN, reduction="sum")
            first = (part % labels.shape[1] == prefix - 1).nonzero()[:, 0]
            said[part] = self._choose(logits, first)
        num_tokens = int((labels.flatten()[kept] != UNKNOWN).sum())
        return said.view_as(labels), float(losses), num_tokens

    def _choose(self, logits: Tensor, first_rows: Tensor | None = None) -> Tensor:
        """Return the most probable allowed token of each row; ``first_rows`` are at the begin of their text."""
        if self._banned[0].device != logits.device:  # once: a list as an index would be copied at each step
            self._banned = [send(ids, logits.device) for ids in self._banned]
        never, not_first = self._banned
        logits.index_fill_(1, never, -torch.inf)
        if first_rows is not None:
            logits[first_rows[:, None], not_first] = -torch.inf
        return logits.argmax(dim=-1)

    def _continue(
        self, caches: Caches, draft: Tensor, said: Tensor, *, prefix: int, max_new_tokens: int
    ) -> tuple[Tensor, int]:
        """Decode every row from the first token that differs from its draft; return tokens, (B, at least max_new)."""
        fitting = (said == draft).long().cumprod(dim=1).sum(dim=1)
        num_rows, draft_length = draft.shape
        tokens = torch.full(
            (num_rows, max(max_new_tokens, draft_length) + CHECK_STEPS), self._end_id, device=draft.device
        )
        places = torch.arange(draft_length, device=draft.device)
        tokens[:, :draft_length] = torch.where(places < fitting[:, None], draft, self._end_id)
        first_other = said.gather(1, fitting.clamp(max=draft_length - 1)[:, None])[:, 0]
        ended = (fitting > 0) & (draft.gather(1, (fitting - 1).clamp(min=0)[:, None])[:, 0] == self._end_id)
        current = torch.where(ended, self._end_id, first_other)
        rows = torch.arange(num_rows, device=draft.device)
        tokens[rows, fitting] = current
        count = fitting + 1
        check_steps = 1 if draft.device.type == "cpu" else CHECK_STEPS
        present, num_steps = num_rows, 0
        while True:
            active = ((current != self._end_id) & (count < max_new_tokens)).nonzero()[:, 0]
            if len(active) == 0:
                return tokens, num_steps
            if len(active) < COMPACT_BELOW * present:
                caches, rows, current, count = caches.select(active), rows[active], current[active], count[active]
                present = len(active)
            reach = min(prefix + int(count.max()) + check_steps - 1, prefix + max_new_tokens)
            for _ in range(check_steps):
                positions = (prefix + count - 1).clamp(max=reach - 1)
                states = self._decoder.step(current, positions, caches, reach)
                chosen = self._choose(self._decoder.logits(states))
                current = torch.where(current == self._end_id, self._end_id, chosen)
                tokens[rows, count.clamp(max=tokens.shape[1] - 1)] = current
                count = count + 1
                num_steps += 1

    def _cut(self, tokens: Tensor, max_new_tokens: int) -> Decoded:
        """Return each row up to its end token or the cap."""
        found = [_until(row[:max_new_tokens], self._end_id) for row in tokens.tolist()]
        return Decoded(
            token_ids=tuple(tuple(row) for row in found), hit_cap=tuple(len(row) == max_new_tokens for row in found)
        )


def _until(row: Iterable[int], end_id: int) -> list[int]:
    said: list[int] = []
    for token in row:
        if token == end_id:
            break
        said.append(token)
    return said
