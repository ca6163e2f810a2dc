"""Randomness that never changes: raw Philox words keyed by what they are for.

NumPy may change what its Generator methods return between versions; the raw words of a bit generator are defined by
its algorithm. So every order in the plan is drawn here, with integer arithmetic and exactly rounded operations only.

Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011 (Philox4x64-10).
"""

import hashlib

import numpy as np
from numpy.random import Philox  # imported at the start: Ctrl-C is lost while numpy loads it
from numpy.typing import NDArray

Part = int | str
"""What a draw is keyed by: seed, purpose, epoch, key ..."""


def draw_words(num_words: int, *key: Part) -> NDArray[np.uint64]:
    """Return 64-bit words that depend on ``key`` alone."""
    return Philox(key=hash_key(*key)).random_raw(num_words)


def draw_uniform(num_values: int, *key: Part) -> NDArray[np.float64]:
    """Return values in [0, 1) with 53 random bits each."""
    bits = (draw_words(num_values, *key) >> np.uint64(11)).astype(np.float64)
    return bits * np.float64(2.0**-53)


def draw_permutation(num_values: int, *key: Part) -> NDArray[np.int64]:
    """Return 0 ... num_values - 1 in random order."""
    return np.argsort(draw_words(num_values, *key), kind="stable")


def hash_key(*key: Part) -> int:
    """Return 128 bits that name ``key``; parts cannot run into each other."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in key)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "little")
