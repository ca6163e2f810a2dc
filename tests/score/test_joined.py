import numpy as np
import pytest

from tests.making import make_dataset
from whisper_shard.dataset.reader import decode_audio, open_reader
from whisper_shard.dataset.sources.open import open_source
from whisper_shard.errors import DatasetError
from whisper_shard.keyed_random import draw_permutation
from whisper_shard.score.joined import PAUSE_SECONDS, JoinRules, join_utterances
from whisper_shard.utterance import SAMPLE_RATE


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("joined") / "data", [3.0, 5.0] * 12)


def test_every_utterance_is_where_it_is_said_to_be(data):
    recordings, notes = join_utterances(data, JoinRules(minutes=0.5, most=9))
    assert notes == ()
    assert all(recording.seconds <= 30.0 for recording in recordings)
    placed = [each for recording in recordings for each in recording.utterances]
    order = draw_permutation(24, "evaluation").tolist()
    assert [each.key for each in placed] == [f"utt{row:05d}" for row in order[: len(placed)]]
    reader = open_reader(data, open_source(data))
    for recording in recordings:
        for each in recording.utterances:
            samples = decode_audio(reader.read(int(each.key[3:])))
            start, end = round(each.start * SAMPLE_RATE), round(each.end * SAMPLE_RATE)
            np.testing.assert_allclose(recording.waveform[start:end], samples / np.float32(32768), atol=1e-7)
    reader.close()


def test_pauses_are_quiet_noise_and_no_zeros(data):
    (recording,), _ = join_utterances(data, JoinRules(minutes=0.5, most=1))
    places = [0.0, *(each.end for each in recording.utterances)]
    said = recording.waveform.std()
    for start in places:
        first = round(start * SAMPLE_RATE)
        pause = recording.waveform[first : first + round(PAUSE_SECONDS * SAMPLE_RATE)]
        assert 0.001 < pause.std() < said / 2
        assert np.count_nonzero(pause) == len(pause)


def test_it_is_the_same_at_every_call(data):
    first, second = (join_utterances(data, JoinRules(minutes=0.5, most=2))[0] for _ in range(2))
    assert all(np.array_equal(a.waveform, b.waveform) for a, b in zip(first, second, strict=True))


def test_a_short_rest_is_used_only_where_there_is_nothing_else(data):
    recordings, _ = join_utterances(data, JoinRules(minutes=0.5, most=9, limit=7))
    assert len(recordings) == 1 and len(recordings[0].utterances) < 7
    recordings, _ = join_utterances(data, JoinRules(minutes=2, most=9, limit=2))
    assert len(recordings[0].utterances) == 2


def test_tasks_other_than_transcribe_are_left_out(tmp_path):
    data = make_dataset(tmp_path / "data", [1.0, 2.0], record={"task": "translate"})
    with pytest.raises(DatasetError, match="none of 2 utterances has a text and the task transcribe"):
        join_utterances(data, JoinRules(minutes=1, most=1))
