import torch
from torch.nn import functional

from tests.model.making import WatchPrecision, tf32_allowed
from whisper_shard.inference.decoder import InferenceDecoder
from whisper_shard.inference.greedy import greedy_decode
from whisper_shard.model.labels import Labeler


@torch.no_grad()
def test_logits_of_a_bfloat16_decoder_are_float32(tiny):
    states = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    watch = WatchPrecision()
    with tf32_allowed(), watch:
        logits = InferenceDecoder(tiny.model, torch.bfloat16).logits(states)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, functional.linear(states, tiny.model.proj_out.weight), atol=1e-6, rtol=0)
    assert watch.seen == {"highest"}


@torch.no_grad()
def test_bfloat16_decoding_tells_tokens_apart_that_round_to_the_same_logit(tiny):
    """Two tokens whose embeddings differ by less than bfloat16 can hold: the larger is chosen, not the first."""
    tiny.model.eval()
    prefix = Labeler(tiny.tokenizer).prefix_batch(1)
    encoder_states = torch.randn(1, 100, 32, generator=torch.Generator().manual_seed(1))
    decoder = InferenceDecoder(tiny.model, torch.bfloat16)
    last = decoder.prefill(prefix, decoder.start(encoder_states, 8))[0, -1]
    embeddings = tiny.model.model.decoder.embed_tokens.weight
    embeddings[3] = 20.0 * last / last.square().sum()
    embeddings[7] = embeddings[3] * 1.0005
    rounded = functional.linear(last.bfloat16(), embeddings.bfloat16())
    assert rounded[3] == rounded[7] == rounded.max()
    found = greedy_decode(tiny.model, encoder_states, prefix, max_new_tokens=1, dtype=torch.bfloat16)
    assert found.token_ids == ((7,),)
