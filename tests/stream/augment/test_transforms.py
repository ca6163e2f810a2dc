"""Augmentations: the same again for the same key, never longer than the window, and clear errors."""

import random

import numpy as np
import pytest
import soundfile

from tests.making import make_dataset, make_waveform
from whisper_shard.audio.samples import to_int16
from whisper_shard.config.stream import GUIDE_AUGMENT
from whisper_shard.errors import ConfigError, DatasetError
from whisper_shard.stream.augment import sounds as bank_module
from whisper_shard.stream.augment.sounds import FolderBank, open_bank
from whisper_shard.stream.augment.transforms import AUGMENTATIONS, augment, augment_speech, build_augmentations
from whisper_shard.utterance import MAX_SAMPLES

WAVEFORM = to_int16(make_waveform(1.0))


@pytest.fixture
def sounds(tmp_path):
    folder = tmp_path / "sounds"
    (folder / "inner").mkdir(parents=True)
    soundfile.write(folder / "long.wav", make_waveform(3.0, seed=1), 16000)
    soundfile.write(folder / "inner" / "short.flac", make_waveform(0.2, seed=2), 8000)
    (folder / "notes.txt").write_text("not a sound")
    return folder


def parameters_of(kind, sounds):
    return {"kind": kind, "p": 1.0} | (
        {"bank": str(sounds)} if kind in ("background_noise", "impulse_response") else {}
    )


@pytest.mark.parametrize(
    "kind", [*AUGMENTATIONS, "AddGaussianNoise", "Gain", "PitchShift", "TimeStretch", "LowPassFilter"]
)
def test_same_key_same_sound_other_key_another(kind, sounds):
    augmentations = build_augmentations((parameters_of(kind, sounds),))
    before = WAVEFORM.copy()
    results = [augment(WAVEFORM, augmentations, max_samples=MAX_SAMPLES, key=(1, 0, key)) for key in "aabcd"]
    assert np.array_equal(results[0], results[1])
    assert any(not np.array_equal(results[0], other) for other in results[2:])
    assert results[0].dtype == np.float32 and np.abs(results[0]).max() <= 1.0
    assert np.array_equal(before, WAVEFORM)
    if kind not in ("speed", "trailing_silence", "TimeStretch"):
        assert len(results[0]) == len(WAVEFORM)


def test_the_global_generators_are_left_alone():
    augmentations = build_augmentations(({"kind": "AddGaussianNoise", "p": 1.0},))
    states = random.getstate(), np.random.get_state()[1].tolist()
    augment(WAVEFORM, augmentations, max_samples=MAX_SAMPLES, key=("k",))
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states


def test_p_is_the_share_of_utterances():
    augmentations = build_augmentations(GUIDE_AUGMENT)
    short = WAVEFORM[:16]
    touched = sum(augment(short, augmentations, max_samples=16, key=(0, i)) is not short for i in range(2000))
    assert 0.32 < touched / 2000 < 0.40  # 1 - 0.8 * 0.8


def test_amounts_are_what_was_asked(sounds):
    quiet = np.zeros(160_000, np.float32)
    noise = build_augmentations(({"kind": "noise", "min_amplitude": 0.002, "max_amplitude": 0.002, "p": 1.0},))
    assert np.std(augment(quiet, noise, max_samples=MAX_SAMPLES, key=(0,))) == pytest.approx(0.002, rel=0.02)
    gain = build_augmentations(({"kind": "gain", "min_gain_db": -6.0, "max_gain_db": -6.0, "p": 1.0},))
    assert augment(WAVEFORM, gain, max_samples=MAX_SAMPLES, key=(0,))[50] == pytest.approx(
        WAVEFORM[50] / 32768 / 1.9953, rel=1e-3
    )
    speed = build_augmentations(({"kind": "speed", "min_factor": 0.8, "max_factor": 0.8, "p": 1.0},))
    assert len(augment(WAVEFORM, speed, max_samples=MAX_SAMPLES, key=(0,))) == 20_000
    step = {"kind": "background_noise", "bank": str(sounds), "min_snr_db": 10.0, "max_snr_db": 10.0, "p": 1.0}
    clean = make_waveform(1.0) * np.float32(0.5)
    added = augment(clean, build_augmentations((step,)), max_samples=MAX_SAMPLES, key=(0,)) - clean
    assert 20 * np.log10(np.std(clean) / np.std(added)) == pytest.approx(10, abs=0.1)


def test_a_clap_in_the_room_stays_where_it_was(tmp_path):
    response = np.concatenate([np.zeros(100), [0.9], 0.3 * np.exp(-np.arange(4000) / 500)]).astype(np.float32)
    soundfile.write(tmp_path / "room.wav", response, 16000)
    augmentations = build_augmentations(({"kind": "impulse_response", "bank": str(tmp_path), "p": 1.0},))
    clap = np.zeros(8000, np.float32)
    clap[3000] = 0.5
    heard = augment(clap, augmentations, max_samples=MAX_SAMPLES, key=(0,))
    assert int(np.abs(heard).argmax()) == 3000
    assert abs(heard[:2990]).max() < 1e-4 and abs(heard[3100:4000]).max() > 0.01


@pytest.mark.parametrize("kind", ["trailing_silence", "speed", "TimeStretch"])
def test_nothing_grows_past_the_window(kind):
    step = {"kind": kind, "p": 1.0}
    augmentations = build_augmentations((step,))
    full = np.zeros(MAX_SAMPLES, np.int16)
    for key in range(3):
        assert len(augment(full, augmentations, max_samples=MAX_SAMPLES, key=(key,))) <= MAX_SAMPLES
        assert len(augment(full[:500], augmentations, max_samples=0, key=(key,))) <= 500


def test_one_of_several_transforms():
    inner = [
        {"kind": "Gain", "min_gain_db": -9.0, "max_gain_db": -9.0, "p": 1.0},
        {"kind": "PolarityInversion", "p": 1.0},
    ]
    augmentations = build_augmentations(({"kind": "OneOf", "transforms": inner},))
    heard = {
        round(float(augment(WAVEFORM, augmentations, max_samples=9**9, key=(i,))[60] / WAVEFORM[60] * 32768), 2)
        for i in range(20)
    }
    assert heard == {-1.0, 0.35}


def test_a_class_of_ones_own():
    augmentations = build_augmentations(({"kind": "tests.stream.augment.test_transforms:Reversed", "p": 1.0},))
    assert augment(WAVEFORM, augmentations, max_samples=MAX_SAMPLES, key=(0,))[0] == np.float32(WAVEFORM[-1] / 32768)


class Reversed:
    def __init__(self, p=0.5):
        self.p = p

    def __call__(self, waveform, rng):
        return waveform[::-1].copy()


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"kind": "AddGausianNoise"}, r"augment\[0\]: unknown kind 'AddGausianNoise'.*AddGaussianNoise"),
        ({"kind": "niose"}, r"augment\[0\]: unknown kind 'niose'.*noise"),
        ({"kind": "AddGaussianNoise", "amplitude": 3}, r"augment\[0\]: kind 'AddGaussianNoise' does not take"),
        ({"kind": "noise", "amplitude": 3}, r"augment\[0\]: kind 'noise' does not take"),
        ({"kind": "Gain", "p": 1.5}, r"augment\[0\]: p of Gain is 1.5; it is a share, 0 to 1"),
        ({"kind": "TimeStretch", "leave_length_unchanged": True}, r"leave_length_unchanged = true cuts off speech"),
        ({"kind": "speed", "min_factor": 0.1}, r"speed from 0.1 to 1.1: need 0.5 <= min <= max <= 2"),
        ({"kind": "OneOf", "transforms": [{"kind": "Gian"}]}, r"unknown kind 'Gian' among transforms.*Gain"),
        ({"kind": "background_noise", "bank": "/nowhere"}, r"bank '/nowhere' is not a folder"),
    ],
)
def test_errors_say_what_to_change(step, message):
    with pytest.raises(ConfigError, match=message):
        build_augmentations((step,))


def test_banks_of_folders_and_datasets(sounds, tmp_path):
    bank = open_bank(str(sounds))
    assert sorted(len(bank.sound(i)) for i in range(len(bank))) == [6_400, 48_000]
    files = list(sounds.glob("bank-*"))
    assert len(files) == 2
    again = FolderBank(sounds)
    assert list(sounds.glob("bank-*")) == files and isinstance(again._samples, np.memmap)
    dataset = make_dataset(tmp_path / "set", [0.1, 0.2])
    assert len(open_bank(str(dataset.folder)).sound(1)) == 3200


def test_broken_banks(sounds, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"has no audio; looked for \*\.aac"):
        open_bank(str(tmp_path / "empty"))
    FolderBank(sounds)
    path = next(sounds.glob("bank-*.npy"))
    np.save(path, np.zeros(5, np.int16))
    with pytest.raises(DatasetError, match=r"is not the bank its json file describes; remove both files"):
        FolderBank(sounds)
    (sounds / "bad.wav").write_bytes(b"RIFF nothing")
    with pytest.raises(ConfigError, match=r"bad\.wav: .*repair or remove the file"):
        bank_module.FolderBank(sounds)


@pytest.mark.parametrize(
    ("kind", "name", "low", "high", "least"),
    [
        ("noise", "amplitude", 0.003, 0.001, 0),
        ("noise", "amplitude", -0.1, 0.1, 0),
        ("gain", "gain_db", 2.0, -2.0, -200),
        ("background_noise", "snr_db", 25.0, 5.0, -200),
        ("trailing_silence", "seconds", 2.0, 1.0, 0),
        ("trailing_silence", "seconds", -1.0, 1.0, 0),
    ],
)
def test_ranges_that_cannot_be_drawn_are_refused(kind, name, low, high, least, sounds):
    step = parameters_of(kind, sounds) | {f"min_{name}": low, f"max_{name}": high}
    message = rf"augment: {kind} with min_{name} {low:g} and max_{name} {high:g}: need {least} <= min <= max"
    with pytest.raises(ConfigError, match=message):
        build_augmentations((step,))


def test_appended_silence_is_counted_so_that_timestamps_end_with_the_speech():
    half = {"kind": "speed", "p": 1.0, "min_factor": 0.5, "max_factor": 0.5}
    silence = {"kind": "trailing_silence", "p": 1.0, "min_seconds": 0.25, "max_seconds": 0.25}
    for steps, expected in (((silence,), 4000), ((half, silence), 4000), ((silence, half), 8000), ((half,), 0)):
        out, silent = augment_speech(WAVEFORM, build_augmentations(steps), max_samples=MAX_SAMPLES, key=(0,))
        assert silent == expected
        assert len(out) - silent == 16_000 * (2 if half in steps else 1)
    out, silent = augment_speech(WAVEFORM, build_augmentations((silence,)), max_samples=0, key=(0,))
    assert (len(out), silent) == (16_000, 0), "no room: nothing is appended"
