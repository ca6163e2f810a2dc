"""Beam search gives the texts of transformers' generate(num_beams=N)."""

import pytest
import torch
from transformers.modeling_outputs import BaseModelOutput

from tests.inference.test_greedy import CAP, encode_recordings, make_waveforms, talkative
from whisper_shard.errors import ConfigError
from whisper_shard.inference.beam import BeamDecoder
from whisper_shard.inference.decoder import InferenceDecoder
from whisper_shard.inference.greedy import SuppressRules, end_token
from whisper_shard.model.forward import encode
from whisper_shard.model.labels import Labeler
from whisper_shard.model.log_mel import LogMel


@torch.no_grad()
def generate(loaded, hidden, cap, num_beams):
    prompt = {"language": "en", "task": "transcribe"} if loaded.is_multilingual else {}
    tokens = loaded.model.generate(
        encoder_outputs=BaseModelOutput(last_hidden_state=hidden), max_new_tokens=cap, num_beams=num_beams,
        do_sample=False, **prompt,
    )  # fmt: skip
    end = end_token(loaded.model)
    start = loaded.model.generation_config.decoder_start_token_id
    rows = [row[4 if loaded.is_multilingual else 2 :] if row[:1] == [start] else row for row in tokens.tolist()]
    return tuple(tuple(row[: row.index(end)] if end in row else row) for row in rows)


def decode(loaded, hidden, cap, num_beams, dtype=torch.float32):
    beams = BeamDecoder(
        InferenceDecoder(loaded.model, dtype), end_id=end_token(loaded.model), rules=SuppressRules.of(loaded.model),
        num_beams=num_beams,
    )  # fmt: skip
    labeler = Labeler(loaded.tokenizer, is_multilingual=loaded.is_multilingual)
    return beams.decode(hidden, labeler.prefix_batch(len(hidden)), max_new_tokens=cap)


@torch.no_grad()
def encode_waveforms(loaded, waveforms):
    return encode(loaded.model.eval(), LogMel()(waveforms))


@pytest.mark.parametrize("which", ["tiny", "english"])
@pytest.mark.parametrize("num_beams", [2, 5])
@pytest.mark.parametrize("cap", [3, CAP])
def test_hypotheses_are_those_of_generate(request, which, num_beams, cap):
    loaded = talkative(request.getfixturevalue(which))
    hidden = encode_waveforms(loaded, make_waveforms(6))
    found = decode(loaded, hidden, cap, num_beams)
    assert found.token_ids == generate(loaded, hidden, cap, num_beams)
    assert found.hit_cap == tuple(len(row) == cap for row in found.token_ids)
    assert len(set(found.token_ids)) > 1 or cap < CAP


def test_beams_find_other_texts_than_one(tiny):
    loaded = talkative(tiny)
    hidden = encode_waveforms(loaded, make_waveforms(6))
    assert decode(loaded, hidden, CAP, 4).token_ids != generate(loaded, hidden, CAP, 1)


@pytest.mark.slow
def test_batches_do_not_change_the_answer(tiny):
    loaded = talkative(tiny)
    hidden = encode_waveforms(loaded, make_waveforms(6))
    together = decode(loaded, hidden, CAP, 3)
    alone = [decode(loaded, hidden[i : i + 1], CAP, 3) for i in range(6)]
    assert tuple(one.token_ids[0] for one in alone) == together.token_ids


@pytest.mark.slow
def test_attention_bias_reaches_every_beam(tiny):
    loaded = talkative(tiny)
    hidden = encode_waveforms(loaded, make_waveforms(2))
    beams = BeamDecoder(
        InferenceDecoder(loaded.model),
        end_id=end_token(loaded.model),
        rules=SuppressRules.of(loaded.model),
        num_beams=3,
    )
    prefix = Labeler(loaded.tokenizer).prefix_batch(2)
    half = hidden.shape[1] // 2
    bias = torch.zeros(1, 1, 1, hidden.shape[1])
    bias[..., half:] = -torch.inf
    masked = beams.decode(hidden, prefix, max_new_tokens=CAP, bias=bias)
    assert masked == beams.decode(hidden[:, :half], prefix, max_new_tokens=CAP)


def test_more_tokens_than_positions_is_refused(tiny):
    hidden = encode_waveforms(tiny, make_waveforms(1))
    with pytest.raises(
        ConfigError, match="--max-new-tokens 445: with a prefix of 4 tokens the decoder has room for 444"
    ):
        decode(tiny, hidden, 445, 2)


@pytest.fixture(scope="module")
def speech(whisper_base):
    return encode_recordings(whisper_base)


@pytest.mark.slow
@pytest.mark.pretrained
@pytest.mark.parametrize("num_beams", [2, 5])
def test_hypotheses_of_real_speech_are_those_of_generate(whisper_base, speech, num_beams):
    theirs = generate(whisper_base, speech, 16, num_beams)
    assert decode(whisper_base, speech, 16, num_beams).token_ids == theirs
    in_bf16 = decode(whisper_base, speech, 16, num_beams, torch.bfloat16).token_ids
    assert sum(one == other for one, other in zip(in_bf16, theirs, strict=True)) >= len(theirs) - 1
