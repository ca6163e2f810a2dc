"""Long recordings become utterances, whatever their blocks, rate and channels."""

import numpy as np
import pytest

from tests.audio.talks import make_talk
from whisper_shard.audio.cutting import PAD_SECONDS, RecordingCutter
from whisper_shard.audio.recording import AudioBlock
from whisper_shard.audio.resample import resample
from whisper_shard.errors import AudioError


def as_blocks(channels, rate, size, *, fails_at=None):
    for position in range(0, channels.shape[1], size):
        if fails_at is not None and position >= fails_at * rate:
            raise AudioError("damaged", reason="truncated")
        yield AudioBlock(channels=channels[:, position : position + size], sample_rate=rate, position=position)


def cut(waveform, *, rate=16_000, size=50_000, max_seconds=30.0, channel=None, fails_at=None):
    channels = np.atleast_2d(waveform).astype(np.float32)
    cutter = RecordingCutter(
        as_blocks(channels, rate, size, fails_at=fails_at), channel=channel, max_seconds=max_seconds
    )
    return cutter, cutter.cut()


@pytest.fixture(scope="module")
def talk():
    return make_talk([1.0, 0.4, 0.3, 5.0, 0.2, 0.8, 0.5, 0.5, 0.5, 0.5])


def test_utterances_end_at_pauses_and_hold_the_audio_of_their_times(talk):
    waveform, times = talk
    cutter, utterances = cut(waveform, max_seconds=8.0)
    found = list(utterances)
    assert found[0].start_seconds == pytest.approx(times[0][0] - PAD_SECONDS, abs=0.15)
    assert found[0].end_seconds == pytest.approx(times[2][1] + PAD_SECONDS, abs=0.15)  # before the pause of 5 s
    assert len(found) >= 3
    for utterance in found:
        start, end = round(utterance.start_seconds * 16_000), round(utterance.end_seconds * 16_000)
        assert (end - start) / 16_000 < 8.0
        assert np.array_equal(utterance.recording.waveform, waveform[start:end])
    spoken = sum(end - start for start, end in times)
    assert sum(u.end_seconds - u.start_seconds for u in found) >= spoken - 0.5
    assert cutter.seconds == len(waveform) / 16_000


@pytest.mark.parametrize(("rate", "size"), [(16_000, 777), (44_100, 1_024), (8_000, 1_000_000)])
def test_blocks_and_rates_do_not_matter(talk, rate, size):
    waveform, _ = talk
    expected = [(u.start_seconds, u.end_seconds) for u in cut(waveform)[1]]
    _, utterances = cut(resample(waveform, 16_000, rate), rate=rate, size=size)
    found = list(utterances)
    times = [time for utterance in found for time in (utterance.start_seconds, utterance.end_seconds)]
    assert times == pytest.approx([time for pair in expected for time in pair], abs=0.1)
    assert all(len(u.recording.waveform) == round(u.end_seconds * rate) - round(u.start_seconds * rate) for u in found)


def test_one_of_two_channels(talk):
    waveform, _ = talk
    both = np.stack([np.zeros_like(waveform), waveform])
    _, silent = cut(both, channel=0)
    assert list(silent) == []
    _, utterances = cut(both, channel=1)
    first = next(utterances)
    assert first.recording.channel_correlation == 0
    with pytest.raises(AudioError, match="there is no channel 2"):
        next(cut(both, channel=2)[1])


def test_damage_costs_what_lies_behind_it(talk):
    waveform, times = talk
    _, utterances = cut(waveform, fails_at=times[6][0] + 0.5, size=8_000)
    found = []
    with pytest.raises(AudioError, match="damaged"):
        found += utterances  # += keeps what came before the error
    assert [utterance.end_seconds for utterance in found] == pytest.approx(
        [times[2][1] + PAD_SECONDS, times[5][1] + PAD_SECONDS], abs=0.15
    )


@pytest.mark.slow
def test_long_silence_is_not_kept(talk):
    waveform, _ = talk

    def endless():
        yield from as_blocks(np.atleast_2d(waveform), 16_000, 16_000)
        for position in range(len(waveform), len(waveform) + 16_000 * 600, 16_000):
            yield AudioBlock(channels=np.zeros((1, 16_000), np.float32), sample_rate=16_000, position=position)
            held.append(sum(block.shape[1] for block in cutter._kept) / 16_000)

    held = []
    cutter = RecordingCutter(endless(), channel=None, max_seconds=30.0)
    assert len(list(cutter.cut())) == 2
    assert max(held[60:]) < 10
    assert cutter.seconds == pytest.approx(len(waveform) / 16_000 + 600, abs=1)


def test_silence_and_nothing():
    assert list(cut(np.zeros(160_000))[1]) == []
    cutter = RecordingCutter(iter([]), channel=None, max_seconds=30.0)
    assert (list(cutter.cut()), cutter.seconds) == ([], 0.0)
