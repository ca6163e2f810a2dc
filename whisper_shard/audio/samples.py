"""Waveforms as float32 and as int16: conversion and copying."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def to_int16(waveform: NDArray[np.float32], *, overwrite: bool = False, is_within: bool = False) -> NDArray[np.int16]:
    """Scale [-1, 1] to int16, rounding to nearest; what lies outside is clipped.

    Args:
        waveform: Any shape.
        overwrite: It is not needed any more and may serve as scratch space, which is faster.
        is_within: No sample is outside of [-1, 1], so that there is nothing to clip.
    """
    scaled = np.multiply(waveform, np.float32(32767.0), out=waveform if overwrite else None)
    np.rint(scaled, out=scaled)
    if not is_within:
        np.clip(scaled, -32768, 32767, out=scaled)
    return scaled.astype("<i2")


_INT16_SCALE = np.float32(1.0 / 32768.0)


def copy_waveform(waveform: NDArray[Any], out: NDArray[Any]) -> None:
    """Write int16 or float32 samples into a row of either kind, in one pass where no rounding is needed."""
    if waveform.dtype == out.dtype:
        np.copyto(out, waveform)
    elif out.dtype == np.int16:
        np.copyto(out, to_int16(waveform))
    else:
        np.multiply(waveform, _INT16_SCALE, out=out, dtype=np.float32)


def to_float32(waveform: NDArray[Any]) -> NDArray[np.float32]:
    """Return samples as float32 in [-1, 1]; a float32 waveform is returned as it is."""
    if waveform.dtype == np.float32:
        return waveform
    scaled: NDArray[np.float32] = np.multiply(waveform, _INT16_SCALE, dtype=np.float32)
    return scaled
