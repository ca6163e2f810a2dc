import numpy as np
import pytest
import torch

from whisper_shard.inference.decoder import InferenceDecoder
from whisper_shard.inference.greedy import SuppressRules
from whisper_shard.inference.timestamps import TimestampRules
from whisper_shard.inference.window_decoder import WindowDecoder, draw_tokens
from whisper_shard.keyed_random import draw_uniform
from whisper_shard.model.labels import Labeler

STATES = torch.randn(5, 1500, 32, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def decoder(tiny):
    return make_decoder(tiny)


def make_decoder(loaded):
    labeler = Labeler(loaded.tokenizer)
    first = labeler.time_id(0.0)
    times = TimestampRules(first_time=first, end_id=labeler.end_id)
    return WindowDecoder(
        InferenceDecoder(loaded.model.eval()), rules=SuppressRules.of(loaded.model), times=times,
        start_id=labeler.start_id, no_speech_id=first - 2,
    )  # fmt: skip


def prefixes(loaded, lengths):
    labeler = Labeler(loaded.tokenizer)
    prefix = labeler.prefix_ids(timestamps=True)
    return [(labeler.previous_id, *range(10, 10 + n), *prefix) if n else prefix for n in lengths]


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_a_row_does_not_depend_on_the_others(decoder, tiny, temperature):
    starts = prefixes(tiny, [0, 3, 7, 0, 40])
    draws = [draw_uniform(30, "row", row) for row in range(5)]
    together = decoder.decode(STATES, starts, max_new_tokens=30, temperature=temperature, draws=draws)
    for row, found in enumerate(together):
        (alone,) = decoder.decode(
            STATES[row : row + 1], [starts[row]], max_new_tokens=30, temperature=temperature, draws=[draws[row]]
        )
        assert alone.token_ids == found.token_ids
        assert alone.avg_logprob == pytest.approx(found.avg_logprob, abs=1e-5)
        assert alone.no_speech_probability == pytest.approx(found.no_speech_probability, abs=1e-6)
    assert len({found.token_ids for found in together}) > 1


@torch.no_grad()
def test_probabilities_are_those_of_one_pass_over_the_text(decoder, tiny):
    (start,) = prefixes(tiny, [5])
    (found,) = decoder.decode(STATES[:1], [start], max_new_tokens=12)
    ids = torch.tensor([[*start, *found.token_ids]])
    hidden = tiny.model.model.decoder(input_ids=ids, encoder_hidden_states=STATES[:1]).last_hidden_state
    logits = tiny.model.proj_out(hidden)[0]
    silent = logits[6].softmax(dim=0)[decoder._no_speech_id]  # after <|startofprev|> and 5 tokens
    assert found.no_speech_probability == pytest.approx(float(silent), abs=1e-6)
    # Which tokens are allowed is compared with transformers elsewhere; here the first must be a time up to 1 s.
    first = decoder._times.first_time
    allowed = logits[len(start) - 1, first : first + 51]
    assert found.token_ids[0] == first + int(allowed.argmax())
    (one,) = decoder.decode(STATES[:1], [start], max_new_tokens=1)
    assert one.token_ids == found.token_ids[:1]
    assert one.avg_logprob == pytest.approx(float(allowed.max() - allowed.logsumexp(dim=0)), abs=1e-5)


def test_a_text_ends_where_the_decoder_has_no_more_positions(decoder, tiny):
    found = decoder.decode(STATES[:2], prefixes(tiny, [0, 430]), max_new_tokens=30)
    assert len(found[1].token_ids) <= 448 - 430 - 4
    assert len(found[0].token_ids) > len(found[1].token_ids)


def test_tokens_are_drawn_with_their_probability():
    logits = torch.tensor([[0.0, -torch.inf, 1.0, 2.0]]).repeat(4000, 1)
    draws = torch.from_numpy(draw_uniform(4000, "test"))
    counts = np.bincount(draw_tokens(logits, 0.5, draws).tolist(), minlength=4)
    wanted = (logits[0] / 0.5).softmax(dim=0).numpy()
    assert counts[1] == 0
    np.testing.assert_allclose(counts / 4000, wanted, atol=0.02)
