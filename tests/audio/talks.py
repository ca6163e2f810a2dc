"""Long recordings of synthesized sentences with pauses, for tests of what finds speech."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from whisper_shard.audio.resample import resample
from whisper_shard.demo.speech import Synthesizer, draw_sentence, draw_voice
from whisper_shard.utterance import SAMPLE_RATE


def make_talk(pauses: Sequence[float], *, seed: int = 0) -> tuple[NDArray[np.float32], list[tuple[float, float]]]:
    """Return a waveform at 16 kHz, a sentence after each of the pauses in seconds, and when each is said."""
    rng, synthesizer = np.random.default_rng(seed), Synthesizer()
    parts, times, place = list[NDArray[np.float32]](), list[tuple[float, float]](), 0
    for pause in pauses:
        samples = synthesizer.speak(draw_sentence(rng), draw_voice(rng)).astype(np.float32) / 32_768
        spoken = np.trim_zeros(resample(samples, synthesizer.sample_rate))
        silence = np.zeros(round(pause * SAMPLE_RATE), np.float32)
        times.append(((place + len(silence)) / SAMPLE_RATE, (place + len(silence) + len(spoken)) / SAMPLE_RATE))
        place += len(silence) + len(spoken)
        parts += [silence, spoken]
    waveform = np.concatenate([*parts, np.zeros(SAMPLE_RATE, np.float32)])
    return (waveform + 1e-3 * rng.standard_normal(len(waveform))).astype(np.float32), times
