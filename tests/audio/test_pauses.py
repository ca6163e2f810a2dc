"""Where utterances end: at long pauses, and at the longest of the second half of the window."""

from itertools import islice

from whisper_shard.audio.pauses import cut_at_pauses
from whisper_shard.audio.speech import SpeechSpan


def spans(*times):
    return [SpeechSpan(start=start * 16_000, end=end * 16_000) for start, end in times]


def test_an_utterance_is_told_before_the_parts_behind_it_are_read():
    def endless():
        start = 0
        while True:
            yield from spans((start, start + 3))
            start += 4

    first, second = islice(cut_at_pauses(endless(), max_seconds=30.0), 2)
    assert (first[0].start_seconds, first[-1].end_seconds) == (0, 27)
    assert second[0].start_seconds == 28


def test_a_part_that_is_too_long_is_alone():
    parts = spans((0, 5), (6, 50), (51, 52))
    assert list(cut_at_pauses(parts, max_seconds=30.0)) == [[part] for part in parts]


def test_nothing_becomes_nothing():
    assert list(cut_at_pauses([], max_seconds=30.0)) == []
