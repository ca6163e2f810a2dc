"""Words are where transformers' own parts of the algorithm put them, and where they were said."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers.models.whisper.generation_whisper import _dynamic_time_warping, _median_filter

from tests.inference.test_long_form import DIGITS, SETTINGS, hear, segments_of, transcribe
from tests.making import make_waveform
from whisper_shard.audio.decoders import DECODERS
from whisper_shard.audio.files import read_recording
from whisper_shard.audio.resample import resample
from whisper_shard.errors import ConfigError
from whisper_shard.inference.decoder import InferenceDecoder
from whisper_shard.inference.fallback import FallbackRules
from whisper_shard.inference.long_form import LongFormTranscriber
from whisper_shard.inference.words import align_tokens, find_path, smooth, split_words
from whisper_shard.model.labels import Labeler


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 9), (7, 3), (12, 40), (40, 300)])
def test_the_path_is_that_of_transformers(rows, columns):
    costs = np.random.default_rng(rows).standard_normal((rows, columns)).astype(np.float32)
    for ours, theirs in zip(find_path(costs), _dynamic_time_warping(costs), strict=True):
        assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("positions", [2, 3, 4, 100])
def test_smoothing_is_that_of_transformers(positions):
    weights = torch.randn(2, 5, positions, generator=torch.Generator().manual_seed(0))
    assert torch.equal(smooth(weights), _median_filter(weights[None], 7)[0])


@torch.no_grad()
def test_tokens_are_placed_by_the_attention_of_the_model(tiny):
    model = tiny.model.eval()
    states = torch.randn(1, 1500, 32, generator=torch.Generator().manual_seed(1))
    labeler = Labeler(tiny.tokenizer)
    heads, prefix, text, end = [(1, 0), (0, 1)], labeler.prefix_ids(), list(range(20, 32)), labeler.end_id
    found = align_tokens(InferenceDecoder(model), states, prefix, text, end_id=end, heads=heads, num_frames=1000)
    model.set_attn_implementation("eager")
    ids = torch.tensor([[*prefix, *text, end]])
    out = model(encoder_outputs=(states,), decoder_input_ids=ids, output_attentions=True)
    weights = torch.stack([out.cross_attentions[layer][0, head] for layer, head in heads])[:, :, :500]
    weights = (weights - weights.mean(dim=1, keepdim=True)) / weights.std(dim=1, keepdim=True, unbiased=False)
    matrix = _median_filter(weights[None], 7)[0].mean(dim=0)[3:-1]
    rows, places = _dynamic_time_warping(-matrix.numpy())
    jumps = np.pad(np.diff(rows), (1, 0), constant_values=1).astype(bool)
    np.testing.assert_allclose(found.times, places[jumps] * 0.02)
    assert len(found.times) == len(text) + 1
    wanted = out.logits[0, 3:-2, :end].softmax(dim=1)[range(len(text)), text]
    np.testing.assert_allclose(found.probabilities, wanted.numpy(), atol=1e-6)


def test_words_of_a_text():
    pieces = {1: " one", 2: "teen", 3: ",", 4: " (", 5: "two", 6: ")", 7: " \u00e9", 8: "\u4e00", 9: "\u3002", 10: ' "'}

    def decode(ids):
        return "".join(pieces[token] for token in ids)

    words = split_words([1, 2, 3, 4, 5, 6, 7, 10, 5], decode, has_spaces=True)
    assert words == [(" oneteen,", 3), (" (two)", 3), (" \u00e9", 1), (' "two', 2)]
    assert split_words([8, 8, 9], decode, has_spaces=False) == [("\u4e00", 1), ("\u4e00\u3002", 2)]
    assert split_words([], decode, has_spaces=True) == []


def test_a_character_of_several_tokens_is_one_piece():
    content = " \u4e00".encode()

    def decode(ids):
        return bytes(ids).decode(errors="replace")

    assert split_words(list(content), decode, has_spaces=True) == [(" \u4e00", len(content))]


def test_segments_have_their_words(tiny):
    settings = replace(SETTINGS, word_timestamps=True)
    recordings = [hear(name, make_waveform(seconds, seed=4)) for name, seconds in (("a", 65.0), ("b", 5.0))]
    for results in transcribe(tiny, settings, recordings, batch=2).values():
        for segment in segments_of(results):
            assert "".join(word.word for word in segment.words) == segment.text
            assert all(0.0 <= word.probability <= 1.0 for word in segment.words)
        times = [time for segment in segments_of(results) for word in segment.words for time in (word.start, word.end)]
        assert times
        assert results[-1].position_seconds >= max(times)


def test_a_model_that_names_no_heads(tiny):
    tiny.model.generation_config.alignment_heads = None
    with pytest.raises(ConfigError, match=r"--word-timestamps: .* names no alignment_heads"):
        LongFormTranscriber(tiny, replace(SETTINGS, word_timestamps=True))


@pytest.mark.slow
@pytest.mark.pretrained
def test_words_are_where_they_were_said(whisper_base):
    decoders = [make() for make in DECODERS.values()]
    parts, spoken = [np.zeros(8000, np.float32)], []
    for name in ("7_jackson_3", "3_jackson_5", "9_jackson_2", "1_jackson_7", "5_jackson_1", "8_jackson_4"):
        recording = read_recording(str(DIGITS / f"{name}.wav"), decoders=decoders, max_seconds=30.0)
        begin = sum(map(len, parts))
        parts += [resample(recording.waveform, recording.sample_rate), np.zeros(12_000, np.float32)]
        spoken.append((begin / 16_000, (begin + len(parts[-2])) / 16_000))
    settings = replace(SETTINGS, fallback=FallbackRules(temperatures=(0.0,)), word_timestamps=True)
    results = transcribe(whisper_base, settings, [hear("a", np.concatenate(parts))])["a"]
    words = [word for segment in segments_of(results) for word in segment.words]
    assert [word.word.strip(" ,.") for word in words] == ["7", "3", "9", "1", "5", "8"]
    # A word begins where the one before ends: the attention of the model counts a pause to the word after it.
    assert all(word.start < (begin + end) / 2 < word.end for word, (begin, end) in zip(words, spoken, strict=True))
    assert np.median([abs(word.end - end) for word, (_, end) in zip(words, spoken, strict=True)]) < 0.25
