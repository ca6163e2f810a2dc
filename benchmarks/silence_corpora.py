"""Corpora that press borrowed silence: plain, noisy, with music, long, and of all lengths."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from itertools import cycle
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.speech import Spoken, read_digits, speak_sentences, write_speech
from whisper_shard.utterance import SAMPLE_RATE

Waveform = NDArray[np.float32]
SNR_DB = 10.0
"""Level of speech above that of a background."""
BREAK_SECONDS = 0.3
"""Silence between two joined utterances."""
MANY = 10**6
"""More sentences than any corpus needs."""


def write_corpus(name: str, folder: Path, digits: Path) -> None:
    """Write the training and test part of a corpus of `CORPORA`, unless they exist."""
    for part, is_test in (("train", False), ("eval", True)):
        if not (folder / part / "dataset.json").is_file():
            write_speech(folder / part, CORPORA[name](digits, is_test))


def mix_speech(digits: Path, is_test: bool, *, num_digits: int, num_read: int) -> Iterator[Spoken]:
    """Yield spoken digits and read sentences of 3 to 12 s, shuffled."""
    table, seed = ("test.csv", 4) if is_test else ("train.csv", 3)
    spoken = [
        *read_digits(digits / table, num_digits),
        *speak_sentences(num_read, shortest=3, longest=12, seed=seed),
    ]
    for row in np.random.default_rng(5).permutation(len(spoken)):
        yield spoken[row]


def plain(digits: Path, is_test: bool) -> Iterator[Spoken]:
    """Yield the corpus of the long runs: as many digits as sentences in training, twice as many in the test."""
    return mix_speech(digits, is_test, num_digits=120 if is_test else 480, num_read=60 if is_test else 480)


def with_background(
    digits: Path, is_test: bool, make: Callable[[int, np.random.Generator], Waveform]
) -> Iterator[Spoken]:
    """Yield speech with a background from the first to the last sample of each recording.

    Args:
        digits: Folder of the spoken digits.
        is_test: Whether the test part is wanted.
        make: Returns so many samples of a background.
    """
    count = 24 if is_test else 120
    rng = np.random.default_rng(6 + is_test)
    for one in mix_speech(digits, is_test, num_digits=count, num_read=count):
        # Recordings of speech go on after the last word, and so does their background.
        padded = np.pad(one.waveform, (SAMPLE_RATE // 5, SAMPLE_RATE * 2 // 5))
        yield dataclasses.replace(one, waveform=add_background(padded, one.waveform, make(len(padded), rng)))


def with_gated_noise(digits: Path, is_test: bool) -> Iterator[Spoken]:
    """Yield speech whose noise begins and stops with it, between digital silences of 0.2 and 0.4 s."""
    count = 24 if is_test else 120
    rng = np.random.default_rng(6 + is_test)
    for one in mix_speech(digits, is_test, num_digits=count, num_read=count):
        noisy = add_background(one.waveform, one.waveform, make_noise(len(one.waveform), rng))
        yield dataclasses.replace(one, waveform=np.pad(noisy, (SAMPLE_RATE // 5, SAMPLE_RATE * 2 // 5)))


def add_background(waveform: Waveform, speech: Waveform, background: Waveform) -> Waveform:
    """Add a background `SNR_DB` below the mean power of the speech, and scale down what would clip."""
    power = float(np.mean(np.square(speech))) / float(np.mean(np.square(background)))
    mixed = waveform + background * np.sqrt(power / 10 ** (SNR_DB / 10))
    return (mixed / max(1.0, float(np.abs(mixed).max()))).astype(np.float32)


def make_noise(size: int, rng: np.random.Generator) -> Waveform:
    """Return white noise."""
    return rng.standard_normal(size).astype(np.float32)


def make_music(size: int, rng: np.random.Generator) -> Waveform:
    """Return chords of four notes with harmonics, a new one each half second, and a drum on each beat."""
    beat = SAMPLE_RATE // 2
    time = np.arange(beat) / SAMPLE_RATE
    beats = []
    for _ in range(-(-size // beat)):
        root = 110.0 * 2 ** (int(rng.integers(0, 13)) / 12)
        notes = [root * 2 ** (step / 12) for step in (0, 4, 7, 12)]
        chord = sum(np.sin(2 * np.pi * note * n * time) / n for note in notes for n in (1, 2, 3, 4))
        drum = rng.standard_normal(beat) * np.exp(-time * 30.0)
        beats.append(chord * np.exp(-time * 2.0) + 2.0 * drum)
    return np.concatenate(beats)[:size].astype(np.float32)


def long_speech(_: Path, is_test: bool) -> Iterator[Spoken]:
    """Yield utterances of 20 to 29 s: sentences joined."""
    sentences = speak_sentences(MANY, shortest=1.5, longest=9.0, seed=12 + is_test)
    rng = np.random.default_rng(8 + is_test)
    yield from join(sentences, rng.uniform(24.0, 29.0, 32 if is_test else 160), shortest=20.0)


def all_lengths(digits: Path, is_test: bool) -> Iterator[Spoken]:
    """Yield utterances of 0.5 to 29 s, evenly on a scale of logarithms; those below 4 s are digits joined."""
    count = 48 if is_test else 240
    seconds = np.exp(np.random.default_rng(10 + is_test).uniform(np.log(0.5), np.log(29.0), count))
    spoken = [
        *join(cycle(read_digits(digits / ("test.csv" if is_test else "train.csv"), 0)), seconds[seconds < 4.0]),
        *join(speak_sentences(MANY, shortest=1.5, longest=12.0, seed=14 + is_test), seconds[seconds >= 4.0]),
    ]
    for row in np.random.default_rng(5).permutation(count):
        yield spoken[row]


def join(spoken: Iterator[Spoken], longest: Iterable[float], *, shortest: float = 0.0) -> Iterator[Spoken]:
    """Yield for each greatest length in seconds some utterances in a row, with breaks between them.

    Args:
        spoken: What is joined, without end; what does not fit is left out.
        longest: Greatest length of each result.
        shortest: Least length; at least 0.7 of the greatest.
    """
    gap = np.zeros(round(BREAK_SECONDS * SAMPLE_RATE), np.float32)
    for number, most in enumerate(longest):
        parts, chosen, misfits = list[Waveform](), list[Spoken](), 0
        while sum(map(len, parts)) < max(shortest, 0.7 * most) * SAMPLE_RATE:
            one = next(spoken)
            longer = [*parts, gap, one.waveform] if parts else [one.waveform]
            if sum(map(len, longer)) <= most * SAMPLE_RATE:
                parts, chosen = longer, [*chosen, one]
            elif (misfits := misfits + 1) % 30 == 0:
                parts, chosen = [], []  # perhaps nothing is short enough for what is left
        text = " ".join(one.text for one in chosen)
        yield Spoken(
            key=f"{chosen[0].key}-{number:05d}", waveform=np.concatenate(parts), text=text, speaker=chosen[0].speaker
        )


def only_digits(digits: Path, is_test: bool) -> Iterator[Spoken]:
    """Yield spoken digits."""
    yield from read_digits(digits / ("test.csv" if is_test else "train.csv"), 120 if is_test else 480)


CORPORA: dict[str, Callable[[Path, bool], Iterator[Spoken]]] = {
    "plain": plain,
    "digits": only_digits,
    "noise": lambda digits, is_test: with_background(digits, is_test, make_noise),
    "gated-noise": with_gated_noise,
    "music": lambda digits, is_test: with_background(digits, is_test, make_music),
    "long": long_speech,
    "lengths": all_lengths,
}
"""What yields the training or the test part of each corpus, from the folder of the spoken digits."""
