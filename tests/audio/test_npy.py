import io

import numpy as np
import pytest

from whisper_shard.audio.npy import NpyDecoder
from whisper_shard.errors import AudioError

SAMPLES = np.array([0, 0.25, -1, 0.5], np.float32)


def saved(array, **options):
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def decode(data, *, max_seconds=1.0):
    file = io.BytesIO(data)
    return NpyDecoder(8_000).decode(file, max_seconds=max_seconds)


@pytest.mark.parametrize(
    "array",
    [
        SAMPLES,
        SAMPLES.astype(">f4"),
        SAMPLES.astype("f8"),
        (SAMPLES * 32768).astype("i2"),
        SAMPLES[None],
        SAMPLES[:, None],
    ],
)
def test_arrays_become_a_waveform(array):
    data = saved(array)
    assert NpyDecoder(8_000).claims(data[:64], "npy")
    recording = decode(data)
    assert recording.sample_rate == 8_000
    assert recording.waveform.dtype == np.float32
    assert np.array_equal(recording.waveform, SAMPLES)


def test_other_files_are_not_claimed():
    assert not NpyDecoder(8_000).claims(b"RIFF", "npy")


@pytest.mark.parametrize(
    ("data", "reason", "message"),
    [
        (
            saved(np.array([{"a": 1}], object), allow_pickle=True),
            "decode_failed",
            r"npy array of '\|O': it must be int16",
        ),
        (saved(np.zeros((2, 3), "f4")), "decode_failed", r"npy array of shape \(2, 3\): it must have one dimension"),
        (saved(np.float32(1)), "decode_failed", r"npy array of shape \(\): it must have one dimension"),
        (saved(np.zeros(3, "c8")), "decode_failed", r"npy array of '<c8'"),
        (saved(np.zeros(3, "i8")), "decode_failed", r"npy array of '<i8'"),
        (saved(np.zeros(9_000, "i2")), "recording_too_long", r"1\.1 s, limit 1 s"),
        (saved(SAMPLES)[:-1], "truncated", r"promises 16 bytes, 15 are there"),
        (saved(SAMPLES) + b"x", "truncated", r"promises 16 bytes, 17 are there"),
        (b"\x93NUMPY\x01\x00\x76\x00" + b"(" * 118, "decode_failed", r"npy header cannot be read"),
        (b"\x93NUMPY\x01\x00\x05\x00[1,2]", "decode_failed", r"npy header cannot be read"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\x7f", "decode_failed", r"npy header cannot be read"),
        (b"\x93NUMPY\x03\x00\x76\x00" + b" " * 118, "decode_failed", r"unknown version b'\\x03\\x00'"),
        (b"\x93NUM", "decode_failed", r"npy file of the unknown version"),
        (saved(np.zeros(3, [("a", "i2")])), "decode_failed", r"describes no simple array"),
    ],
)
def test_anything_else_is_refused_before_memory_is_taken(data, reason, message):
    with pytest.raises(AudioError, match=message) as caught:
        decode(data)
    assert caught.value.reason == reason
    assert "\n" not in str(caught.value)


def test_a_header_that_claims_more_than_is_there_takes_no_memory():
    lies = saved(SAMPLES).replace(b"(4,), }" + b" " * 9, b"(4000000000,), }")
    with pytest.raises(AudioError, match=r"promises 16000000000 bytes, 16 are there"):
        decode(lies, max_seconds=1e9)
