import pytest

from whisper_shard.audio.speech import SpeechSpan
from whisper_shard.transcribe.audio import pack_speech


def spans(*seconds):
    return [SpeechSpan(start=round(16_000 * start), end=round(16_000 * end)) for start, end in seconds]


@pytest.mark.parametrize(
    ("speech", "windows"),
    [
        ([], ()),
        ([(1.0, 4.0), (10.0, 31.0)], ((100, 3100),)),
        ([(1.0, 4.0), (10.0, 31.001)], ((100, 400), (1000, 3101))),
        ([(0.0, 28.0), (28.0, 56.0), (57.0, 58.0)], ((0, 2800), (2800, 5800))),
        ([(69.0, 70.02)], ((6900, 7000),)),
        ([(70.0, 70.02)], ()),
    ],
)
def test_speech_is_packed_into_windows(speech, windows):
    assert pack_speech(spans(*speech), num_frames=7000, max_frames=3000) == windows
