import numpy as np
import pytest

from tests.making import make_waveform
from whisper_shard.audio.samples import copy_waveform, to_float32, to_int16


def test_samples_are_rounded_and_clipped():
    waveform = np.float32([0, 1, -1, 2, -2, 0.5 / 32768, 1.6 / 32768])
    assert to_int16(waveform).tolist() == [0, 32767, -32768, 32767, -32768, 0, 2]


def test_conversion_may_use_the_waveform_as_scratch_space():
    waveform = make_waveform(0.1)
    kept = waveform.copy()
    samples = to_int16(waveform)
    np.testing.assert_array_equal(waveform, kept)
    np.testing.assert_array_equal(to_int16(waveform, is_within=True), samples)
    assert to_int16(np.float32([1, -1]), is_within=True).tolist() == [32767, -32768]
    np.testing.assert_array_equal(to_int16(waveform, overwrite=True), samples)


def test_rounding_at_full_scale_does_not_wrap_around():
    above = np.nextafter(np.float32(1), np.float32(2))  # as far as scaling to a peak of 1 can miss it
    assert to_int16(np.array([above, -above]), is_within=True).tolist() == [32767, -32768]


def test_other_types_are_converted_or_refused_but_never_scaled_by_mistake():
    waveform = np.array([0.5, -0.25])
    assert to_float32(waveform).tolist() == [0.5, -0.25]
    row = np.empty(2, np.float32)
    copy_waveform(waveform, row)
    assert row.tolist() == [0.5, -0.25]
    with pytest.raises(TypeError, match=r"a waveform holds int32; it must hold float32 in \[-1, 1\], or int16"):
        to_float32(np.array([1, 2], np.int32))


def test_every_int16_value_survives_the_way_to_float_and_back():
    samples = np.arange(-32768, 32768, dtype=np.int32).astype(np.int16)
    np.testing.assert_array_equal(to_int16(to_float32(samples)), samples)
    row = np.empty(len(samples), np.float32)
    copy_waveform(samples, row)
    np.testing.assert_array_equal(row, to_float32(samples))
    back = np.empty(len(samples), np.int16)
    copy_waveform(row, back)
    np.testing.assert_array_equal(back, samples)
