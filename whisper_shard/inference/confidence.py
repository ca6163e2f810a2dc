"""How sure a model is of its hypotheses: one pass of the decoder over a batch of finished texts.

The mean log-probability is that of greedy decoding: of each token among those that are allowed, the end token included.
The language is judged after the start token, among the language tokens alone.

Source: avg_logprob and detect_language of openai/whisper decoding.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from whisper_shard.inference.decoder import InferenceDecoder
from whisper_shard.inference.greedy import CHUNK_LOGITS, SuppressRules


@dataclass(frozen=True, slots=True, kw_only=True)
class Confidence:
    """How sure a model is of one hypothesis."""

    avg_logprob: float
    """Mean natural logarithm of the probability of a token, 0 at most."""
    language_probability: float | None
    """Probability of the language in the prefix, 0 to 1; None: the model has no language tokens."""
    heard_language: str | None
    """The most probable language, as Whisper's code; None: as above."""


class ConfidenceMeter:
    """Measures the confidence of a model with its current weights.

    Args:
        decoder: Prepared weights.
        end_id: The end token.
        rules: Tokens never chosen.
        languages: Token of each language, by its code; empty for an English-only model.
    """

    def __init__(
        self, decoder: InferenceDecoder, *, end_id: int, rules: SuppressRules, languages: Mapping[str, int]
    ) -> None:
        self._decoder = decoder
        self._end_id = end_id
        self._rules = rules
        self._languages = languages

    @torch.inference_mode()
    def measure(
        self,
        encoder_states: Tensor,
        prefixes: Tensor,
        token_ids: Sequence[Sequence[int]],
        *,
        has_end: Sequence[bool],
        bias: Tensor | None = None,
    ) -> list[Confidence]:
        """Return the confidence of each row.

        Args:
            encoder_states: (B, T // 2, D).
            prefixes: (B, P) tokens before the texts, the language at position 1.
            token_ids: Tokens of each hypothesis, without prefix and end token.
            has_end: Whether each hypothesis was followed by the end token.
            bias: Attention bias of each encoder position, (1, 1, 1, T // 2); None: zero.
        """
        texts = [[*ids, self._end_id] if ended else list(ids) for ids, ended in zip(token_ids, has_end, strict=True)]
        length = max(1, *map(len, texts))
        targets = torch.full((len(texts), length), self._end_id, device=encoder_states.device)
        for row, ids in zip(targets, texts, strict=True):
            row[: len(ids)] = torch.tensor(ids, device=row.device, dtype=row.dtype)
        prefixes = prefixes.to(encoder_states.device)
        inputs = torch.cat([prefixes, targets[:, :-1]], dim=1)
        caches = self._decoder.start(encoder_states, inputs.shape[1], bias)
        states = self._decoder.prefill(inputs, caches)
        log_probs = self._log_probs(states[:, prefixes.shape[1] - 1 :], targets)
        means = [float(row[: len(ids)].mean()) if ids else 0.0 for row, ids in zip(log_probs, texts, strict=True)]
        heard = self._hear(states[:, 0], prefixes[:, 1].tolist())
        return [
            Confidence(avg_logprob=mean, language_probability=probability, heard_language=code)
            for mean, (probability, code) in zip(means, heard, strict=True)
        ]

    def _log_probs(self, states: Tensor, targets: Tensor) -> Tensor:
        """Return the log-probability of each target, (B, L); some rows of logits at a time."""
        num_rows, length = targets.shape
        flat_states, flat_targets = states.flatten(0, 1), targets.flatten()
        found = torch.empty(len(flat_targets), device=targets.device)
        for part in torch.split(torch.arange(num_rows * length, device=targets.device), CHUNK_LOGITS):
            logits = self._decoder.logits(flat_states[part]).float()
            logits[:, list(self._rules.always)] = -torch.inf
            begins = part[part % length == 0] - part[0]
            if len(begins) and self._rules.at_begin:
                logits[begins[:, None], torch.tensor(self._rules.at_begin, device=logits.device)] = -torch.inf
            chosen = flat_targets[part][:, None]
            found[part] = (logits.gather(1, chosen)[:, 0] - logits.logsumexp(dim=1)).float()
        return found.view(num_rows, length)

    def _hear(self, states: Tensor, used: Sequence[int]) -> list[tuple[float | None, str | None]]:
        """Return for each row the probability of its language token, and the most probable language."""
        if not self._languages:
            return [(None, None)] * len(used)
        codes, tokens = list(self._languages), list(self._languages.values())
        probabilities = self._decoder.logits(states)[:, tokens].float().softmax(dim=1).tolist()
        return [
            (row[tokens.index(token)], codes[max(range(len(codes)), key=row.__getitem__)])
            for row, token in zip(probabilities, used, strict=True)
        ]
