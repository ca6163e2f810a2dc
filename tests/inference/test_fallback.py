import math
import zlib

import pytest

from tests.inference.test_window_decoder import STATES, make_decoder, prefixes
from whisper_shard.inference.fallback import FallbackRules, compression_ratio, decode_with_fallback
from whisper_shard.inference.window_decoder import Hypothesis


def hypothesis(avg_logprob=-0.5, no_speech=0.1):
    return Hypothesis(token_ids=(1, 2), avg_logprob=avg_logprob, no_speech_probability=no_speech)


def test_thresholds_are_those_of_whisper():
    rules = FallbackRules()
    assert not rules.is_doubtful(hypothesis(), 2.0)
    assert rules.is_doubtful(hypothesis(), 2.5)
    assert rules.is_doubtful(hypothesis(-1.1), 2.0)
    assert rules.is_silent(hypothesis(-1.1, 0.7))
    assert not rules.is_doubtful(hypothesis(-1.1, 0.7), 2.5)
    assert not rules.is_silent(hypothesis(-0.9, 0.99))
    off = FallbackRules(max_compression_ratio=None, min_avg_logprob=None, max_no_speech=None)
    assert not off.is_doubtful(hypothesis(-9.0), 9.0)
    assert not off.is_silent(hypothesis(-9.0, 1.0))


def test_repeated_text_has_a_high_ratio():
    assert compression_ratio("one two three four, said the clerk") < 1.2
    assert compression_ratio("nine " * 40) > 10
    assert compression_ratio("") == 0


def decode(loaded, rules, rows):
    return decode_with_fallback(
        make_decoder(loaded), STATES[rows], [prefixes(loaded, [row])[0] for row in rows],
        names=[f"window {row}" for row in rows], rules=rules, max_new_tokens=20,
        decode_text=lambda ids: loaded.tokenizer.decode(list(ids)),
    )  # fmt: skip


def test_doubtful_windows_are_decoded_again_and_the_last_attempt_is_kept(tiny):
    never = FallbackRules(temperatures=(0.0, 0.5, 1.0), min_avg_logprob=-math.inf, max_compression_ratio=None)
    assert {window.temperature for window in decode(tiny, never, [0, 1, 2])} == {0.0}
    always = FallbackRules(temperatures=(0.0, 0.5, 1.0), min_avg_logprob=0.0, max_no_speech=None)
    drawn = decode(tiny, always, [0, 1, 2])
    assert {window.temperature for window in drawn} == {1.0}
    again = decode(tiny, always, [0, 1, 2])
    assert [window.hypothesis.token_ids for window in again] == [window.hypothesis.token_ids for window in drawn]


def test_a_window_does_not_depend_on_the_others(tiny):
    sums = [window.hypothesis.avg_logprob for window in decode(tiny, FallbackRules(temperatures=(0.0,)), [0, 1, 2, 3])]
    between = sorted(sums)[1] + 1e-4  # so that some windows are decoded again and some are not
    rules = FallbackRules(temperatures=(0.0, 0.5), min_avg_logprob=between, max_no_speech=None)
    together = decode(tiny, rules, [0, 1, 2, 3])
    assert {window.temperature for window in together} == {0.0, 0.5}
    for row, window in enumerate(together):
        (alone,) = decode(tiny, rules, [row])
        assert alone.hypothesis.token_ids == window.hypothesis.token_ids
        assert alone.temperature == window.temperature


def test_a_silent_window_is_not_decoded_again(tiny):
    rules = FallbackRules(temperatures=(0.0, 0.5), min_avg_logprob=0.0, max_no_speech=0.0)
    (window,) = decode(tiny, rules, [0])
    assert window.is_silent
    assert window.temperature == 0.0


@pytest.mark.parametrize("text", ["a", "\u00e9\u00e8", "one two"])
def test_the_ratio_counts_bytes(text):
    assert compression_ratio(text) == len(text.encode()) / len(zlib.compress(text.encode()))
