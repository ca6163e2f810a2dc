"""Augmentations of training audio, reproducible from (seed, epoch, key).

Every class of audiomentations is available under its own name; the classes below do the common ones faster.
Whether an augmentation applies, and how, depends on the seed, the epoch and the utterance's key, never on the worker
or the order of reading.

To add one, write a class here and name it in AUGMENTATIONS; or name yours in TOML: ``kind = "package.module:Class"``.
"""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from whisper_shard.audio.resample import resample
from whisper_shard.audio.samples import to_float32
from whisper_shard.config.plugins import PluginTables, build_plugins
from whisper_shard.errors import ConfigError, suggest
from whisper_shard.keyed_random import hash_key
from whisper_shard.stream.augment.sounds import open_bank
from whisper_shard.utterance import SAMPLE_RATE, Waveform

_COMPOSITIONS = ("Compose", "OneOf", "SomeOf")  # of audiomentations: take a list of transforms
_NOISE_SAMPLES = 1 << 21  # 8 MB of Gaussian noise, shared by all utterances


class Augmentation(Protocol):
    """Changes a waveform at random."""

    @property
    def p(self) -> float:
        """Share of the utterances it is applied to, 0 to 1."""
        ...

    def __call__(self, waveform: Waveform, rng: np.random.Generator) -> Waveform:
        """Return the augmented waveform; the given one is not changed."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """Add white Gaussian noise, cut at random from a stretch that is drawn once."""

    min_amplitude: float = 0.0005
    """Least standard deviation."""
    max_amplitude: float = 0.003
    """Greatest standard deviation."""
    p: float = 0.5
    """Share of the utterances it is applied to, 0 to 1."""

    def __post_init__(self) -> None:
        """Check the range of amplitudes."""
        _check_order("noise", "amplitude", self.min_amplitude, self.max_amplitude, least=0.0)

    def __call__(self, waveform: Waveform, rng: np.random.Generator) -> Waveform:
        """Return waveform plus noise."""
        noise = _noise()
        start = int(rng.integers(len(noise) - len(waveform) + 1))
        amplitude = np.float32(rng.uniform(self.min_amplitude, self.max_amplitude))
        out = noise[start : start + len(waveform)] * amplitude
        out += waveform
        return out


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """Change the level."""

    min_gain_db: float = -2.0
    """Lowest gain."""
    max_gain_db: float = 2.0
    """Highest gain."""
    p: float = 0.5
    """Share of the utterances it is applied to, 0 to 1."""

    def __post_init__(self) -> None:
        """Check the range of gains."""
        _check_order("gain", "gain_db", self.min_gain_db, self.max_gain_db, least=-200.0)

    def __call__(self, waveform: Waveform, rng: np.random.Generator) -> Waveform:
        """Return the waveform times the gain."""
        return waveform * np.float32(10.0 ** (rng.uniform(self.min_gain_db, self.max_gain_db) / 20.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class BackgroundNoise:
    """Add a stretch of a sound from a bank, repeated where it is too short."""

    bank: str
    """A dataset, or a folder of audio files."""
    min_snr_db: float = 5.0
    """Loudest background: least ratio of speech to noise."""
    max_snr_db: float = 25.0
    """Softest background: greatest ratio of speech to noise."""
    p: float = 0.5
    """Share of the utterances it is applied to, 0 to 1."""

    def __post_init__(self) -> None:
        """Check the range of ratios; open the bank, so that a wrong path is reported at once."""
        _check_order("background_noise", "snr_db", self.min_snr_db, self.max_snr_db, least=-200.0)
        open_bank(self.bank)

    def __call__(self, waveform: Waveform, rng: np.random.Generator) -> Waveform:
        """Return waveform plus background."""
        bank = open_bank(self.bank)
        sound = bank.sound(int(rng.integers(len(bank))))
        snr_db = rng.uniform(self.min_snr_db, self.max_snr_db)
        start = int(rng.integers(max(len(sound) - len(waveform), 0) + 1))
        noise = to_float32(np.resize(sound[start : start + len(waveform)], len(waveform)))
        noise_level = _root_mean_square(noise)
        if not noise_level:
            return waveform
        return waveform + noise * np.float32(_root_mean_square(waveform) / noise_level * 10.0 ** (-snr_db / 20.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class ImpulseResponse:
    """Convolve with the impulse response of a room. Length, start and level stay."""

    bank: str
    """A dataset, or a folder of audio files, of impulse responses."""
    p: float = 0.5
    """Share of the utterances it is applied to, 0 to 1."""

    def __post_init__(self) -> None:
        """Open the bank, so that a wrong path is reported at once."""
        open_bank(self.bank)

    def __call__(self, waveform: Waveform, rng: np.random.Generator) -> Waveform:
        """Return the waveform with the reverberation of the room."""
        bank = open_bank(self.bank)
        response = to_float32(bank.sound(int(rng.integers(len(bank)))))
        if not len(waveform) or not response.any():
            return waveform
        # A power of two that holds the whole convolution, so that its tail does not come round to the beginning.
        size = 1 << (len(waveform) + len(response) - 2).bit_length()
        heard = np.fft.irfft(np.fft.rfft(waveform, size) * np.fft.rfft(response, size), size)
        direct = int(np.abs(response).argmax())
        out = heard[direct : direct + len(waveform)].astype(np.float32)
        level = _root_mean_square(out)
        return out * np.float32(_root_mean_square(waveform) / level) if level else waveform


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """Play faster or slower, pitch and all; what would exceed 30 s is left as it is.

    Source: Ko et al., "Audio augmentation for speech recognition", Interspeech 2015.
    """

    min_factor: float = 0.9
    """Slowest."""
    max_factor: float = 1.1
    """Fastest."""
    p: float = 0.5
    """Share of the utterances it is applied to, 0 to 1."""

    def __post_init__(self) -> None:
        """Refuse factors that leave no speech."""
        if not 0.5 <= self.min_factor <= self.max_factor <= 2.0:
            raise ConfigError(
                f"augment: speed from {self.min_factor:g} to {self.max_factor:g}: need 0.5 <= min <= max <= 2"
            )

    def __call__(self, waveform: Waveform, rng: np.random.Generator) -> Waveform:
        """Return the waveform with 1 / factor of its samples."""
        # Whole hertz: the resampler's filter then repeats itself.
        rate = round(SAMPLE_RATE * rng.uniform(self.min_factor, self.max_factor))
        return resample(waveform, rate)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrailingSilence:
    """Append silence, so that the model learns to end where the speech ends and not where the window does."""

    min_seconds: float = 0.0
    """Least silence."""
    max_seconds: float = 2.0
    """Most silence; an utterance that would exceed 30 s is left as it is."""
    p: float = 0.5
    """Share of the utterances it is applied to, 0 to 1."""

    def __post_init__(self) -> None:
        """Refuse lengths that cannot be drawn."""
        _check_order("trailing_silence", "seconds", self.min_seconds, self.max_seconds, least=0.0)

    def __call__(self, waveform: Waveform, rng: np.random.Generator) -> Waveform:
        """Return the waveform with zeros behind."""
        num_samples = round(rng.uniform(self.min_seconds, self.max_seconds) * SAMPLE_RATE)
        return np.concatenate([waveform, np.zeros(num_samples, np.float32)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Audiomentation:
    """A transform of audiomentations under our generator."""

    transform: Callable[..., Any]
    """The transform; it applies itself always, we decide when."""
    p: float
    """Share of the utterances it is applied to, 0 to 1."""

    def __call__(self, waveform: Waveform, rng: np.random.Generator) -> Waveform:
        """Return the transformed waveform.

        Transforms draw from the two global generators, which are seeded for it and then put back.
        """
        seed = int(rng.integers(1 << 32))
        states = random.getstate(), np.random.get_state()
        try:
            random.seed(seed)
            np.random.seed(seed)
            out: Waveform = self.transform(samples=waveform.copy(), sample_rate=SAMPLE_RATE)
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
        return out.astype(np.float32, copy=False)


AUGMENTATIONS: dict[str, Callable[..., Augmentation]] = {
    "noise": Noise,
    "gain": Gain,
    "background_noise": BackgroundNoise,
    "impulse_response": ImpulseResponse,
    "speed": Speed,
    "trailing_silence": TrailingSilence,
}


def build_augmentations(tables: PluginTables) -> tuple[Augmentation, ...]:
    """Make the augmentations of a configuration.

    Raises:
        ConfigError: Unknown kinds, wrong parameters, or a transform that cuts off speech.
    """
    # Its import takes longer than opening the loader: only where one of its classes, or none of ours, is asked for.
    is_ours = all(table.get("kind") in AUGMENTATIONS for table in tables)
    family = AUGMENTATIONS if is_ours else {**_audiomentations(), **AUGMENTATIONS}
    built = build_plugins(tables, family, where="augment")
    for position, (table, augmentation) in enumerate(zip(tables, built, strict=True)):
        if not 0.0 <= augmentation.p <= 1.0:
            raise ConfigError(f"augment[{position}]: p of {table['kind']} is {augmentation.p}; it is a share, 0 to 1")
    return built


def augment(
    waveform: NDArray[Any], augmentations: Sequence[Augmentation], *, max_samples: int, key: tuple[int | str, ...]
) -> NDArray[Any]:
    """Apply each augmentation with its probability; clip the result to [-1, 1].

    Args:
        waveform: int16 or float32; returned as it is if no augmentation is applied.
        augmentations: In order.
        max_samples: An augmentation that would make the waveform longer than this (and than it was) is left out.
        key: Names this utterance in this epoch; the same key gives the same result.
    """
    return augment_speech(waveform, augmentations, max_samples=max_samples, key=key)[0]


def augment_speech(
    waveform: NDArray[Any], augmentations: Sequence[Augmentation], *, max_samples: int, key: tuple[int | str, ...]
) -> tuple[NDArray[Any], int]:
    """Return what `augment` does, and how many of its samples, at the end, are silence that was appended."""
    out, silent = waveform, 0
    for position, augmentation in enumerate(augmentations):
        # The hash itself is the random number: a generator would take ten times as long, for every utterance.
        if hash_key("chance", position, *key) < augmentation.p * 2.0**128:
            rng = np.random.Generator(np.random.Philox(key=hash_key("augment", position, *key)))
            out = to_float32(out)
            augmented = augmentation(out, rng)
            if len(augmented) > max(max_samples, len(out)):
                continue
            if isinstance(augmentation, TrailingSilence):
                silent += len(augmented) - len(out)
            else:  # others change the length of all, as speed does, or of nothing
                silent = round(silent * len(augmented) / max(1, len(out)))
            out = augmented
    return out if out is waveform else np.clip(out, -1.0, 1.0, out=out), silent


def _make_audiomentation(name: str, **parameters: Any) -> Audiomentation:
    """Make a transform that always applies itself; its own ``p`` is kept apart, since `augment` draws it."""
    p = parameters.pop("p", 1.0 if name in _COMPOSITIONS else 0.5)
    return Audiomentation(transform=_make_transform(name, parameters | {"p": 1.0}), p=p)


def _make_transform(name: str, parameters: dict[str, Any]) -> Callable[..., Any]:
    import audiomentations

    if name == "TimeStretch" and parameters.setdefault("leave_length_unchanged", False):
        raise ConfigError("augment: TimeStretch with leave_length_unchanged = true cuts off speech; set it to false")
    if name in _COMPOSITIONS:
        inner = [dict(step) for step in parameters.pop("transforms", ())]
        parameters["transforms"] = [_make_transform(step.pop("kind", ""), step) for step in inner]
    make: Callable[..., Callable[..., Any]] | None = getattr(audiomentations, name, None)
    if make is None:
        raise ConfigError(f"augment: unknown kind {name!r} among transforms{suggest(name, list(_audiomentations()))}")
    return make(**parameters)


def _audiomentations() -> Mapping[str, Callable[..., Augmentation]]:
    import audiomentations
    from audiomentations.core.transforms_interface import BaseWaveformTransform

    names = [
        name
        for name, value in vars(audiomentations).items()
        if isinstance(value, type) and issubclass(value, BaseWaveformTransform)
    ]
    return {name: partial(_make_audiomentation, name) for name in [*names, *_COMPOSITIONS]}


def _check_order(kind: str, name: str, low: float, high: float, *, least: float) -> None:
    if not least <= low <= high < math.inf:
        raise ConfigError(
            f"augment: {kind} with min_{name} {low:g} and max_{name} {high:g}: need {least:g} <= min <= max"
        )


def _root_mean_square(waveform: Waveform) -> float:
    return float(np.sqrt(np.dot(waveform, waveform) / max(len(waveform), 1)))


@cache
def _noise() -> NDArray[np.float32]:
    return np.random.Generator(np.random.Philox(key=hash_key("noise"))).standard_normal(_NOISE_SAMPLES, np.float32)
