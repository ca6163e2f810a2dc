"""Beam search in batches: the hypotheses of transformers' ``generate(num_beams=N)``.

All beams of an utterance attend to one copy of its encoder states: they are more queries, not more rows. A beam that
ends leaves for the list of finished texts, whose score is the sum of log-probabilities over the number of tokens; an
utterance is done when no running beam can beat the worst of its ``N`` finished texts any more, and leaves the batch.
Tokens that are never chosen lose their probability without leaving it to others, as in transformers.

Source: transformers ``generation/utils.py``, ``_beam_search`` with length_penalty 1 and early_stopping False.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from whisper_shard.errors import ConfigError
from whisper_shard.inference.cross_attention import CrossAttention
from whisper_shard.inference.decoder import Caches, InferenceDecoder
from whisper_shard.inference.greedy import CHUNK_LOGITS, Decoded, SuppressRules

_NEVER = -1.0e9  # a score below all others that can still be compared, as in transformers


@dataclass(frozen=True, slots=True)
class BeamCrossAttention:
    """Cross-attention of all beams of each utterance over one copy of its encoder states."""

    shared: CrossAttention
    """One row for each utterance."""
    num_beams: int
    """Rows of queries of each."""

    def attend(self, layer: int, queries: Tensor) -> Tensor:
        """See `CrossAttention`; queries are (B * beams, heads, 1, head width)."""
        rows, num_heads, _, width = queries.shape
        by_utterance = queries.view(rows // self.num_beams, self.num_beams, num_heads, width).transpose(1, 2)
        return self.shared.attend(layer, by_utterance).reshape(rows, 1, num_heads * width)

    def select(self, rows: Tensor) -> "BeamCrossAttention":
        """Return the same for some utterances only; ``rows`` are numbers of utterances, not of beams."""
        return BeamCrossAttention(self.shared.select(rows), self.num_beams)


@dataclass(slots=True)
class _Beams:
    """Utterances that are being decoded; the first dimension is the utterance, the second the beam."""

    numbers: Tensor
    """(B,) in the whole batch."""
    tokens: Tensor
    """(B, N, cap) of the running beams."""
    scores: Tensor
    """(B, N) sums of log-probabilities, best first."""
    finished: Tensor
    """(B, N, cap) finished texts."""
    finished_scores: Tensor
    """(B, N) best first."""
    is_finished: Tensor
    """(B, N) whether there is such a text."""

    def select(self, rows: Tensor) -> "_Beams":
        return _Beams(
            self.numbers[rows], self.tokens[rows], self.scores[rows], self.finished[rows], self.finished_scores[rows],
            self.is_finished[rows],
        )  # fmt: skip


class BeamDecoder:
    """Beam search for many batches with the same weights.

    Args:
        decoder: Prepared weights.
        end_id: The end token.
        rules: Tokens never chosen.
        num_beams: Texts that are followed at once, 2 or more.
    """

    def __init__(self, decoder: InferenceDecoder, *, end_id: int, rules: SuppressRules, num_beams: int) -> None:
        self._decoder = decoder
        self._end_id = end_id
        self._rules = rules
        self._num_beams = num_beams

    @torch.inference_mode()
    def decode(
        self, encoder_states: Tensor, prefixes: Tensor, *, max_new_tokens: int, bias: Tensor | None = None
    ) -> Decoded:
        """Return the best hypothesis of each row.

        Args:
            encoder_states: (B, T // 2, D).
            prefixes: (B, P) tokens before the texts.
            max_new_tokens: Cap of a hypothesis, end token included.
            bias: Attention bias of each encoder position, (1, 1, 1, T // 2); None: zero.

        Raises:
            ConfigError: Prefix and hypothesis do not fit into the decoder's positions.
        """
        prefixes = prefixes.to(encoder_states.device)
        (size, prefix), device = prefixes.shape, prefixes.device
        if prefix + max_new_tokens > self._decoder.max_positions:
            raise ConfigError(
                f"--max-new-tokens {max_new_tokens}: with a prefix of {prefix} tokens the decoder has room for "
                f"{self._decoder.max_positions - prefix}"
            )
        caches = self._decoder.start(encoder_states, prefix + max_new_tokens, bias)
        states = self._decoder.prefill(prefixes, caches)[:, -1].repeat_interleave(self._num_beams, dim=0)
        owners = torch.arange(size, device=device).repeat_interleave(self._num_beams)
        caches = Caches(_gather_tokens(caches, owners), BeamCrossAttention(caches.cross, self._num_beams))
        shape = (size, self._num_beams)
        texts = torch.full((*shape, max_new_tokens), self._end_id, device=device)
        scores = torch.full(shape, _NEVER, device=device)
        scores[:, 0] = 0.0  # all beams are still the same: only the first may be continued
        beams = _Beams(
            torch.arange(size, device=device), texts, scores, texts.clone(), torch.full(shape, _NEVER, device=device),
            torch.zeros(shape, dtype=torch.bool, device=device),
        )  # fmt: skip
        found = torch.full((size, max_new_tokens), self._end_id, device=device)
        for length in range(1, max_new_tokens + 1):
            sources = self._extend(beams, self._log_probs(states, is_first=length == 1), length)
            found[beams.numbers] = beams.finished[:, 0]
            kept = self._can_improve(beams, length).nonzero()[:, 0]
            if len(kept) == 0 or length == max_new_tokens:
                break
            if len(kept) < len(beams.numbers):
                beams, sources = beams.select(kept), sources[kept]
                caches = Caches(caches.tokens, caches.cross.select(kept))
            caches = Caches(_gather_tokens(caches, sources.flatten()), caches.cross)
            last = beams.tokens[:, :, length - 1].flatten()
            positions = torch.full_like(last, prefix + length - 1)
            states = self._decoder.step(last, positions, caches, prefix + length)
        return self._cut(found, max_new_tokens)

    def _log_probs(self, states: Tensor, *, is_first: bool) -> Tensor:
        """Return the log-probabilities of the next token of each beam, (B * N, V); some rows at a time."""
        parts = []
        for part in torch.split(states, CHUNK_LOGITS):
            found = self._decoder.logits(part).log_softmax(dim=1)
            found[:, list(self._rules.always)] = -torch.inf
            if is_first:
                found[:, list(self._rules.at_begin)] = -torch.inf
            parts.append(found)
        return torch.cat(parts)

    def _extend(self, beams: _Beams, log_probs: Tensor, length: int) -> Tensor:
        """Continue each beam by a token; return the row of the caches, (B, N), that each running beam came from."""
        size, num_beams = beams.scores.shape
        totals = log_probs.view(size, num_beams, -1) + beams.scores[:, :, None]
        num_tokens = totals.shape[2]
        # Twice as many as there are beams: should all of the best end here, as many are left to go on.
        best, places = totals.flatten(1).topk(2 * num_beams, dim=1)
        parents, chosen = places // num_tokens, places % num_tokens
        texts = _take(beams.tokens, parents)
        texts[:, :, length - 1] = chosen
        ends = (chosen == self._end_id) | (length == texts.shape[2])
        self._finish(beams, texts, best, ends, length)
        running = (best + ends * _NEVER).topk(num_beams, dim=1)
        beams.tokens, beams.scores = _take(texts, running.indices), running.values
        first_rows = torch.arange(size, device=best.device)[:, None] * num_beams
        return first_rows + parents.gather(1, running.indices)

    def _finish(self, beams: _Beams, texts: Tensor, best: Tensor, ends: Tensor, length: int) -> None:
        """Put texts that end now, if they are among the best of this step, to the finished ones."""
        num_beams = beams.scores.shape[1]
        just_finished = ends.clone()
        just_finished[:, num_beams:] = False
        scores = torch.cat([beams.finished_scores, best / length + ~just_finished * _NEVER], dim=1)
        kept = scores.topk(num_beams, dim=1)
        beams.finished = _take(torch.cat([beams.finished, texts], dim=1), kept.indices)
        beams.is_finished = torch.cat([beams.is_finished, just_finished], dim=1).gather(1, kept.indices)
        beams.finished_scores = kept.values

    def _can_improve(self, beams: _Beams, length: int) -> Tensor:
        """Return for each utterance whether a running beam may still beat one of its finished texts, (B,)."""
        worst = torch.where(beams.is_finished, beams.finished_scores[:, -1:], _NEVER)
        return (beams.scores[:, :1] / length > worst).any(dim=1)

    def _cut(self, found: Tensor, max_new_tokens: int) -> Decoded:
        rows = [row[: row.index(self._end_id)] if self._end_id in row else row for row in found.tolist()]
        return Decoded(token_ids=tuple(map(tuple, rows)), hit_cap=tuple(len(row) == max_new_tokens for row in rows))


def _gather_tokens(caches: Caches, rows: Tensor) -> list[tuple[Tensor, Tensor]]:
    return [(keys.index_select(0, rows), values.index_select(0, rows)) for keys, values in caches.tokens]


def _take(texts: Tensor, beams: Tensor) -> Tensor:
    """Return some beams of each utterance.

    Args:
        texts: (B, N, L).
        beams: (B, M) numbers of beams.
    """
    return texts.gather(1, beams[:, :, None].expand(-1, -1, texts.shape[2]))
