"""Speech is found where it is said, and where Silero's own code finds it."""

import json
import subprocess
import sys
from functools import partial
from itertools import pairwise

import numpy as np
import pytest

from tests.audio.talks import make_talk
from whisper_shard.audio.speech import FRAME_SAMPLES, SpeechLimits, SpeechStream, find_speech, find_speech_model
from whisper_shard.errors import AudioError, ConfigError
from whisper_shard.utterance import SAMPLE_RATE

OTHER_LIMITS = {
    "defaults": {},
    "shared-pauses": {"threshold": 0.6, "min_silence_seconds": 0.05, "pad_seconds": 0.4, "min_speech_seconds": 0.0},
    "long-only": {"threshold": 0.3, "min_silence_seconds": 0.5, "pad_seconds": 0.2, "min_speech_seconds": 2.0},
}


@pytest.fixture(scope="module")
def talk():
    return make_talk([1.0, 0.3, 0.15, 3.0, 0.2, 0.8, 1.5, 0.2])


def as_pairs(spans):
    return [(span.start, span.end) for span in spans]


def as_silero(limits):
    """Return the arguments of get_speech_timestamps with the same meaning."""
    names = {
        "min_silence_seconds": "min_silence_duration_ms",
        "min_speech_seconds": "min_speech_duration_ms",
        "pad_seconds": "speech_pad_ms",
    }
    return {names.get(name, name): value * 1000 if name in names else value for name, value in limits.items()}


def test_speech_is_found_where_it_is_said(talk):
    waveform, times = talk
    found = find_speech(waveform, SpeechLimits(min_silence_seconds=0.5))
    # Pauses of less than half a second belong to the speech around them.
    expected = [times[0][0], times[3][0], times[5][0], times[6][0]]
    assert [span.start_seconds for span in found] == pytest.approx(expected, abs=0.15)
    assert found[0].end_seconds == pytest.approx(times[2][1], abs=0.25)
    assert found[-1].end_seconds == pytest.approx(times[-1][1], abs=0.25)


@pytest.mark.parametrize("name", OTHER_LIMITS)
def test_the_same_spans_as_those_of_silero(talk, name):
    torch = pytest.importorskip("torch")
    silero_vad = pytest.importorskip("silero_vad")
    waveform, _ = talk
    theirs = silero_vad.get_speech_timestamps(
        torch.from_numpy(waveform), silero_vad.load_silero_vad(onnx=True), **as_silero(OTHER_LIMITS[name])
    )
    found = find_speech(waveform, SpeechLimits(**OTHER_LIMITS[name]))
    assert len(found) >= 2
    # The two models differ by rounding, which may move a border by a frame.
    flat = [sample for span in theirs for sample in (span["start"], span["end"])]
    assert [sample for pair in as_pairs(found) for sample in pair] == pytest.approx(flat, abs=FRAME_SAMPLES)


@pytest.mark.parametrize("name", OTHER_LIMITS)
def test_the_rules_are_those_of_silero_for_any_probabilities(name, monkeypatch):
    silero_vad = pytest.importorskip("silero_vad")
    rng = np.random.default_rng(7)
    for _ in range(50):
        # A random walk, so that speech and silence have all lengths.
        steps = rng.normal(0, 0.2, 400).cumsum()
        probabilities = (np.sin(steps) / 2 + 0.5).astype(np.float32).tolist()
        num_samples = len(probabilities) * FRAME_SAMPLES - int(rng.integers(0, FRAME_SAMPLES))
        theirs = silero_vad.get_speech_timestamps_from_probs(
            probabilities, audio_length_samples=num_samples, **as_silero(OTHER_LIMITS[name])
        )
        monkeypatch.setattr("whisper_shard.audio.speech._load_session", partial(Recited, probabilities))
        found = find_speech(np.zeros(num_samples, np.float32), SpeechLimits(**OTHER_LIMITS[name]))
        assert as_pairs(found) == [(span["start"], span["end"]) for span in theirs]


class Recited:
    """In place of the model, so that the rules alone are compared: returns given probabilities."""

    def __init__(self, probabilities):
        self.left = list(probabilities)

    def run(self, _names, inputs):
        count = len(inputs["input"])
        found, self.left = self.left[:count], self.left[count:]
        return np.array(found, np.float32), inputs["h"], inputs["c"]


def test_pieces_of_any_length_give_the_same_spans(talk):
    waveform, _ = talk
    limits = SpeechLimits(max_seconds=5.0, pad_seconds=0.2)
    stream, found, place, rng = SpeechStream(limits), [], 0, np.random.default_rng(3)
    while place < len(waveform):
        size = int(rng.integers(1, 30_000))
        settled = stream.settled
        new = list(stream.add(waveform[place : place + size]))
        assert all(span.start >= settled for span in new)  # a caller may have forgotten what lies before
        found += new
        place += size
    found += stream.finish()
    assert found == find_speech(waveform, limits)


def test_long_speech_is_divided(talk):
    waveform, _ = talk
    joined = SpeechLimits(min_silence_seconds=5.0, pad_seconds=0.2)
    (whole,) = find_speech(waveform, joined)
    parts = find_speech(waveform, SpeechLimits(min_silence_seconds=5.0, pad_seconds=0.2, max_seconds=6.0))
    assert len(parts) > 3
    assert (parts[0].start, parts[-1].end) == (whole.start, whole.end)
    assert all(before.end == after.start for before, after in pairwise(parts))
    assert all(span.end - span.start <= 6.0 * SAMPLE_RATE for span in parts)


@pytest.mark.parametrize("seconds", [0.0, 0.01, 5.0])
def test_silence_holds_no_speech(seconds):
    assert find_speech(np.zeros(round(seconds * SAMPLE_RATE), np.float32)) == []


def test_samples_that_are_no_numbers(talk):
    waveform = talk[0].copy()
    waveform[20_000] = np.nan
    with pytest.raises(AudioError, match="not finite numbers") as raised:
        find_speech(waveform)
    assert raised.value.reason == "not_finite"


def test_samples_that_are_infinite_in_a_later_piece(talk):
    stream = SpeechStream(SpeechLimits())
    list(stream.add(talk[0]))
    with pytest.raises(AudioError, match="absurdly large"):
        list(stream.add(np.array([np.inf], np.float32)))


@pytest.mark.parametrize("name", ["silero_vad", "onnxruntime"])
def test_a_package_that_is_missing(name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=rf"finding speech needs {name}: pip install 'whisper-shard\[vad\]'"):
        find_speech_model()


def test_a_package_that_is_too_old(monkeypatch):
    monkeypatch.setattr("whisper_shard.audio.speech.MODEL_FILE", "data/of_tomorrow.onnx")
    with pytest.raises(ConfigError, match=r"needs silero-vad 6\.2\.2 or newer"):
        find_speech_model()


def test_torch_is_not_imported():
    code = (
        "import json, sys, numpy as np\n"
        "from whisper_shard.audio.speech import find_speech\n"
        "found = find_speech(np.zeros(32_000, np.float32))\n"
        "print(json.dumps([found, sorted({'torch', 'silero_vad'} & set(sys.modules))]))\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(ran.stdout) == [[], []]


@pytest.mark.long
def test_the_same_spans_as_those_of_silero_in_torch():
    torch, silero_vad = pytest.importorskip("torch"), pytest.importorskip("silero_vad")
    rng = np.random.default_rng(1)
    waveform, _ = make_talk(rng.exponential(0.6, 60).tolist(), seed=1)
    model = silero_vad.load_silero_vad()
    for limits in OTHER_LIMITS.values():
        theirs = silero_vad.get_speech_timestamps(torch.from_numpy(waveform), model, **as_silero(limits))
        found = as_pairs(find_speech(waveform, SpeechLimits(**limits)))
        flat = [sample for span in theirs for sample in (span["start"], span["end"])]
        assert [sample for pair in found for sample in pair] == pytest.approx(flat, abs=FRAME_SAMPLES)
