"""Greedy decoding in batches, with the reference as a draft where it is known.

One pass over the reference gives its loss and, at each position, the most probable next token. As long as that is the
token of the reference, greedy decoding would have gone the same way, so the hypothesis begins with all tokens up to the
first difference and is decoded step by step only from there. The hypotheses are those of plain greedy decoding; a model
that makes few errors needs few steps.

Source of the idea: speculative decoding, arXiv:2211.17192, with the reference as the draft.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from whisper_shard.errors import ConfigError
from whisper_shard.inference.decoder import Caches, InferenceDecoder
from whisper_shard.model.device import send
from whisper_shard.model.labels import LabelBatch
from whisper_shard.model.loss import IGNORE_INDEX

CHUNK_LOGITS = 1024
"""Rows of logits in memory at once: 212 MB at 51,865 tokens."""
COMPACT_BELOW = 0.75
"""Finished rows leave the batch when fewer than this share of its rows still decode."""
CHECK_STEPS = 8
"""Steps between two checks for finished rows on a GPU; each check waits for the device."""
NO_DRAFT = -1
"""In place of a draft token: the draft ends here, without an end token and without a loss."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SuppressRules:
    """Tokens never chosen. Source: `suppress_tokens` and `begin_suppress_tokens` of generation_config."""

    always: tuple[int, ...] = ()
    """At any position."""
    at_begin: tuple[int, ...] = ()
    """As the first token."""

    @classmethod
    def of(cls, model: Any) -> "SuppressRules":
        """Return the rules in a model's generation settings."""
        settings = model.generation_config
        return cls(always=tuple(settings.suppress_tokens or ()), at_begin=tuple(settings.begin_suppress_tokens or ()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """Hypotheses of a batch."""

    token_ids: tuple[tuple[int, ...], ...]
    """Tokens of each row, without prefix and end token."""
    hit_cap: tuple[bool, ...]
    """Whether each row reached the cap before its end token."""


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
    """Decoding steps after the draft."""


class _Rows(NamedTuple):
    """Rows that are being decoded."""

    numbers: Tensor
    """(N,) their row numbers in the whole batch."""
    last: Tensor
    """(N,) last token of each."""
    lengths: Tensor
    """(N,) tokens of each so far, the last one included, the prefix not."""


def end_token(model: Any) -> int:
    """Return the id of the end token."""
    end = model.generation_config.eos_token_id
    return int(end[0] if isinstance(end, list) else end)


@torch.inference_mode()
def greedy_decode(
    model: Any,
    encoder_states: Tensor,
    prefix_ids: Tensor,
    *,
    max_new_tokens: int = 128,
    rules: SuppressRules | None = None,
    dtype: torch.dtype = torch.float32,
) -> Decoded:
    """Return greedy hypotheses without a draft: always the most probable token.

    Args:
        model: WhisperForConditionalGeneration.
        encoder_states: (B, T // 2, D).
        prefix_ids: (B, P), from `Labeler.prefix_batch`.
        max_new_tokens: Cap of a hypothesis, end token included.
        rules: Tokens never chosen; None: those of the model's generation settings.
        dtype: Dtype of matrix products.

    Raises:
        ConfigError: Prefix and hypothesis do not fit into the decoder's positions.
    """
    labels = torch.full_like(prefix_ids, IGNORE_INDEX)
    labels[:, -1] = NO_DRAFT
    decoder = InferenceDecoder(model, dtype)
    greedy = GreedyDecoder(decoder, end_id=end_token(model), rules=rules or SuppressRules.of(model))
    return greedy.decode(encoder_states, prefix_ids, labels, max_new_tokens=max_new_tokens).decoded


class GreedyDecoder:
    """Greedy decoding with drafts, for many batches with the same weights.

    Args:
        decoder: Prepared weights.
        end_id: The end token.
        rules: Tokens never chosen.
    """

    def __init__(self, decoder: InferenceDecoder, *, end_id: int, rules: SuppressRules) -> None:
        self._decoder = decoder
        self._end_id = end_id
        self._suppressed = [torch.tensor(ids, dtype=torch.int64) for ids in (rules.always, rules.at_begin)]

    def decode_labels(
        self, encoder_states: Tensor, labels: LabelBatch, *, max_new_tokens: int, bias: Tensor | None = None
    ) -> DecodedWithLoss:
        """Return loss and hypotheses of a batch with known references; see `decode`."""
        device = encoder_states.device
        inputs, targets = labels.decoder_input_ids.to(device), labels.labels.to(device)
        return self.decode(encoder_states, inputs, targets, max_new_tokens=max_new_tokens, bias=bias)

    @torch.inference_mode()
    def measure_loss(
        self, encoder_states: Tensor, labels: LabelBatch, *, bias: Tensor | None = None
    ) -> tuple[float, int]:
        """Return the sum of the token losses of known references and their number, without decoding; see `decode`."""
        device = encoder_states.device
        inputs, targets = labels.decoder_input_ids.to(device), labels.labels.to(device)
        states = self._decoder.prefill(inputs, self._decoder.start(encoder_states, inputs.shape[1], bias))
        prefix = int((targets[0] == IGNORE_INDEX).int().argmin()) + 1
        _, loss_sum, num_tokens = self._verify_draft(states, targets, prefix)
        return loss_sum, num_tokens

    @torch.inference_mode()
    def decode(
        self,
        encoder_states: Tensor,
        inputs: Tensor,
        labels: Tensor,
        *,
        max_new_tokens: int,
        bias: Tensor | None = None,
    ) -> DecodedWithLoss:
        """Return loss and hypotheses of one batch.

        Args:
            encoder_states: (B, T // 2, D).
            inputs: (B, L) prefix and draft; all prefixes have one length.
            labels: (B, L) what follows each input: a token, NO_DRAFT, or IGNORE_INDEX within the prefix and
                after the end.
            max_new_tokens: Cap of a hypothesis, end token included.
            bias: Attention bias of each encoder position, (1, 1, 1, T // 2); None: zero.

        Raises:
            ConfigError: Prefix and hypothesis do not fit into the decoder's positions.
        """
        prefix = int((labels[0] == IGNORE_INDEX).int().argmin()) + 1
        capacity = max(prefix + max_new_tokens, inputs.shape[1])
        if capacity > self._decoder.max_positions:
            raise ConfigError(
                f"--max-new-tokens {max_new_tokens}: with a prefix of {prefix} tokens the decoder has room for "
                f"{self._decoder.max_positions - prefix}"
            )
        caches = self._decoder.start(encoder_states, capacity, bias)
        states = self._decoder.prefill(inputs, caches)
        chosen, loss_sum, num_tokens = self._verify_draft(states, labels, prefix)
        tokens, rows = self._accept_draft(labels[:, prefix - 1 :], chosen[:, prefix - 1 :], max_new_tokens)
        num_steps = self._continue(caches, tokens, rows, prefix=prefix, max_new_tokens=max_new_tokens)
        return DecodedWithLoss(
            decoded=self._cut(tokens, max_new_tokens), loss_sum=loss_sum, num_tokens=num_tokens, num_steps=num_steps
        )

    def _verify_draft(self, states: Tensor, labels: Tensor, prefix: int) -> tuple[Tensor, float, int]:
        """Return the token chosen after each input, (B, L), and loss sum and number of tokens of the labels."""
        flat = labels.flatten()
        kept = (flat != IGNORE_INDEX).nonzero()[:, 0]
        chosen = torch.full_like(flat, IGNORE_INDEX - 1)  # equal to no label
        losses = torch.zeros((), dtype=torch.float64, device=labels.device)
        for part in torch.split(kept, CHUNK_LOGITS):
            logits = self._decoder.logits(states.flatten(0, 1)[part])
            losses += functional.cross_entropy(logits, flat[part], ignore_index=NO_DRAFT, reduction="sum")
            first = (part % labels.shape[1] == prefix - 1).nonzero()[:, 0]
            chosen[part] = self._choose(logits, first)
        num_tokens = int((flat[kept] != NO_DRAFT).sum())
        return chosen.view_as(labels), float(losses), num_tokens

    def _choose(self, logits: Tensor, first_rows: Tensor | None = None) -> Tensor:
        """Return the most probable allowed token of each row; the tokens of ``first_rows`` begin their texts."""
        if self._suppressed[0].device != logits.device:  # once: a list as an index would be copied at each step
            self._suppressed = [send(ids, logits.device) for ids in self._suppressed]
        always, at_begin = self._suppressed
        logits.index_fill_(1, always, -torch.inf)
        if first_rows is not None:
            logits[first_rows[:, None], at_begin] = -torch.inf
        return logits.argmax(dim=-1)

    def _accept_draft(self, draft: Tensor, chosen: Tensor, max_new_tokens: int) -> tuple[Tensor, _Rows]:
        """Return tokens up to the first that differs from the draft, that one included, and the rows at that point.

        Tokens are (B, at least ``max_new_tokens``), filled up with the end token.
        """
        num_rows, draft_length = draft.shape
        device = draft.device
        accepted = (chosen == draft).long().cumprod(dim=1).sum(dim=1)
        size = max(max_new_tokens, draft_length) + CHECK_STEPS  # steps between two checks may go beyond the cap
        tokens = torch.full((num_rows, size), self._end_id, device=device)
        positions = torch.arange(draft_length, device=device)
        tokens[:, :draft_length] = torch.where(positions < accepted[:, None], draft, self._end_id)
        # A draft accepted to its end token is finished: what would be chosen next is of no interest.
        last_accepted = draft.gather(1, (accepted - 1).clamp(min=0)[:, None])[:, 0]
        has_ended = (accepted > 0) & (last_accepted == self._end_id)
        first_different = chosen.gather(1, accepted.clamp(max=draft_length - 1)[:, None])[:, 0]
        current = torch.where(has_ended, self._end_id, first_different)
        rows = torch.arange(num_rows, device=device)
        tokens[rows, accepted] = current
        return tokens, _Rows(rows, current, accepted + 1)

    def _continue(self, caches: Caches, tokens: Tensor, rows: _Rows, *, prefix: int, max_new_tokens: int) -> int:
        """Decode all rows to their end token or the cap, write them into ``tokens``, and return the steps taken."""
        # On a CPU looking for finished rows is free, and one row less is work saved at once. On a GPU it waits for the
        # device and a step costs the same for any number of rows, so several steps are queued between two looks; a row
        # that ends meanwhile goes on with end tokens.
        check_steps = 1 if tokens.device.type == "cpu" else CHECK_STEPS
        num_steps = 0
        while True:
            active = ((rows.last != self._end_id) & (rows.lengths < max_new_tokens)).nonzero()[:, 0]
            if len(active) == 0:
                return num_steps
            # Compaction copies all caches, as much memory traffic as a few steps: worth it only if many rows leave.
            if len(active) < COMPACT_BELOW * len(rows.numbers):
                caches = caches.select(active)
                rows = _Rows(*(values[active] for values in rows))
            # Attend to as few positions as the longest row will reach by the next check.
            num_positions = min(prefix + int(rows.lengths.max()) + check_steps - 1, prefix + max_new_tokens)
            for _ in range(check_steps):
                rows = self._step(caches, tokens, rows, prefix=prefix, num_positions=num_positions)
            num_steps += check_steps

    def _step(self, caches: Caches, tokens: Tensor, rows: _Rows, *, prefix: int, num_positions: int) -> _Rows:
        """Choose one more token in every row and write it into ``tokens``; ended rows repeat the end token."""
        positions = (prefix + rows.lengths - 1).clamp(max=num_positions - 1)
        states = self._decoder.step(rows.last, positions, caches, num_positions)
        chosen = self._choose(self._decoder.logits(states))
        current = torch.where(rows.last == self._end_id, self._end_id, chosen)
        tokens[rows.numbers, rows.lengths.clamp(max=tokens.shape[1] - 1)] = current
        return _Rows(rows.numbers, current, rows.lengths + 1)

    def _cut(self, tokens: Tensor, max_new_tokens: int) -> Decoded:
        """Return each row up to its end token or the cap."""
        rows = [_until(row[:max_new_tokens], self._end_id) for row in tokens.tolist()]
        return Decoded(
            token_ids=tuple(tuple(row) for row in rows), hit_cap=tuple(len(row) == max_new_tokens for row in rows)
        )


def _until(tokens: Iterable[int], end_id: int) -> list[int]:
    found: list[int] = []
    for token in tokens:
        if token == end_id:
            break
        found.append(token)
    return found
