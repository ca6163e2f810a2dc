"""The language that a model hears: one step of the decoder after the start token, over the language tokens.

Source: arXiv:2212.04356, section 2.3; detect_language of openai/whisper decoding.py.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from whisper_shard.inference.decoder import InferenceDecoder
from whisper_shard.inference.encoder import InferenceEncoder
from whisper_shard.text.languages import NAMES


def language_tokens(vocabulary: Mapping[str, int]) -> dict[str, int]:
    """Return the token of each language that a tokenizer has, by Whisper's code."""
    return {code: vocabulary[token] for code in NAMES if (token := f"<|{code}|>") in vocabulary}


@torch.inference_mode()
def detect_languages(
    model: Any, log_mel: Tensor, languages: Mapping[str, int], *, start_id: int, dtype: torch.dtype = torch.float32
) -> Sequence[str]:
    """Return the most probable language of each window.

    Args:
        model: WhisperForConditionalGeneration with language tokens.
        log_mel: (B, n_mels, frames) of windows of the model's own length.
        languages: Token of each language, by its code.
        start_id: Token <|startoftranscript|>.
        dtype: Of the matrix products of the encoder.
    """
    states = InferenceEncoder(model, dtype).encode(log_mel).float()
    was_training = model.training
    model.eval()
    try:
        starts = torch.full((len(states), 1), start_id, device=states.device)
        hidden = model.model.decoder(input_ids=starts, encoder_hidden_states=states, use_cache=False).last_hidden_state
        scores = model.proj_out(hidden[:, -1])[:, list(languages.values())]
    finally:
        model.train(was_training)
    codes = list(languages)
    return [codes[i] for i in scores.argmax(dim=1).tolist()]


@torch.inference_mode()
def hear_languages(
    decoder: InferenceDecoder, encoder_states: Tensor, languages: Mapping[str, int], *, start_id: int
) -> Sequence[str]:
    """Return the most probable language of each row of encoder states, (B, T // 2, D); see `detect_languages`."""
    starts = torch.full((len(encoder_states), 1), start_id, device=encoder_states.device)
    hidden = decoder.prefill(starts, decoder.start(encoder_states, 1))
    scores = decoder.logits(hidden[:, 0])[:, list(languages.values())]
    codes = list(languages)
    return [codes[i] for i in scores.argmax(dim=1).tolist()]
