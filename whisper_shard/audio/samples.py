"""Waveforms as float32 in [-1, 1] and as int16: conversion and copying."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

FULL_SCALE = 32_768
"""The int16 value of 1.0, for writing and for reading, so that 16-bit recordings are stored without loss.

Source: the convention of libsndfile, FFmpeg and torchaudio, in which -1.0 is the lowest int16 and 1.0 is clipped.
"""
_TO_FLOAT = np.float32(1 / FULL_SCALE)


def to_int16(waveform: NDArray[np.float32], *, overwrite: bool = False, is_within: bool = False) -> NDArray[np.int16]:
    """Scale [-1, 1] to int16, rounding to nearest; what lies outside is clipped, and so is 1.0 itself.

    Args:
        waveform: Any shape.
        overwrite: It is not needed any more and may serve as scratch space, which is faster.
        is_within: No sample is below -1, so that only the upper end needs clipping.
    """
    scaled = np.multiply(waveform, np.float32(FULL_SCALE), out=waveform if overwrite else None)
    np.rint(scaled, out=scaled)
    np.minimum(scaled, np.float32(FULL_SCALE - 1), out=scaled)
    if not is_within:
        np.maximum(scaled, np.float32(-FULL_SCALE), out=scaled)
    return scaled.astype("<i2")


def to_float32(waveform: NDArray[Any]) -> NDArray[np.float32]:
    """Return int16 samples as float32 in [-1, 1]; a float32 waveform is returned as it is, float64 is rounded.

    Raises:
        TypeError: Samples of another type, whose scale is unknown.
    """
    if waveform.dtype.kind == "f":
        return waveform.astype(np.float32, copy=False)
    if waveform.dtype != np.int16:
        raise TypeError(f"a waveform holds {waveform.dtype}; it must hold float32 in [-1, 1], or int16")
    scaled: NDArray[np.float32] = np.multiply(waveform, _TO_FLOAT, dtype=np.float32)
    return scaled


def copy_waveform(waveform: NDArray[Any], out: NDArray[Any]) -> None:
    """Write a waveform into a row of int16 or float32, in one pass where nothing is rounded; see `to_float32`."""
    if waveform.dtype == out.dtype:
        np.copyto(out, waveform)
    elif out.dtype == np.int16:
        np.copyto(out, to_int16(to_float32(waveform)))
    elif waveform.dtype != np.int16:
        np.copyto(out, to_float32(waveform))
    else:
        np.multiply(waveform, _TO_FLOAT, out=out, dtype=np.float32)
