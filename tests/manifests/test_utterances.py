"""Cues become utterances."""

import pytest

from whisper_shard.manifests.cues import Cue
from whisper_shard.manifests.utterances import check_cues, cut_utterances


def cue(start, end, text="a"):
    return Cue(start_seconds=start, end_seconds=end, text=text)


def cut(*cues, max_seconds=30.0):
    checked = check_cues(cues, max_seconds=max_seconds)
    return [
        [(cue.start_seconds, cue.end_seconds) for cue in part] if not part[0].fault else part[0].fault
        for part in cut_utterances(checked, max_seconds=max_seconds)
    ]


def test_as_many_cues_as_fit_cut_at_the_longest_pause_of_the_second_half():
    cues = [(0, 8), (8.9, 16), (16.5, 22), (22.2, 28), (28.1, 35)]
    assert cut(*(cue(*times) for times in cues)) == [cues[:2], cues[2:]]


def test_a_long_pause_always_cuts():
    assert cut(cue(0, 2), cue(4, 5), cue(6.9, 8)) == [[(0, 2)], [(4, 5), (6.9, 8)]]


def test_cues_stay_whole_and_fit():
    cues = [cue(i * 7.0, i * 7.0 + 6.9) for i in range(40)]
    parts = cut(*cues)
    assert [times for part in parts for times in part] == [(c.start_seconds, c.end_seconds) for c in cues]
    assert all(part[-1][1] - part[0][0] < 30 for part in parts)


def test_small_overlaps_follow_each_other_and_others_are_one():
    assert cut(cue(0, 2.1), cue(2, 4)) == [[(0, 2), (2, 4)]]
    merged = check_cues([cue(1, 3, "no"), cue(0, 2.5, "yes")], max_seconds=30)
    assert [(c.start_seconds, c.end_seconds, c.text) for c in merged] == [(0, 3, "yes no")]


@pytest.mark.parametrize(
    ("bad", "fault"),
    [
        (cue(2, 2), "from 2.000 s to 2.000 s: ends where it begins"),
        (cue(2, 1.5), "ends where it begins, or before"),
        (cue(2.5, 40), "37.5 s, limit 30 s"),
        (Cue(start_seconds=0, end_seconds=0, text="", fault="line 7"), "line 7"),
    ],
    ids=["empty", "backwards", "long", "unreadable"],
)
def test_a_bad_cue_ends_the_utterance_before_it(bad, fault):
    before, found, after = cut(cue(0, 2), bad, cue(3, 4))
    assert (before, after) == ([(0, 2)], [(3, 4)]) or fault.startswith("37")
    assert fault in found


def test_a_cue_before_the_recording():
    assert "begins before the recording" in cut(cue(-1, 1))[0]


def test_cues_without_a_text_are_silence():
    assert cut(cue(0, 2), cue(2, 5, ""), cue(5, 6)) == [[(0, 2)], [(5, 6)]]
