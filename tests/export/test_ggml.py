import numpy as np
import pytest

from whisper_shard.export.ggml import BLOCK, quantize_q5_0, quantize_q8_0


def read_q8_0(data):
    blocks = np.frombuffer(data, dtype=[("scale", "<f2"), ("values", "i1", BLOCK)])
    return blocks["scale"].astype(np.float32)[:, None] * blocks["values"]


def read_q5_0(data):
    blocks = np.frombuffer(data, dtype=[("scale", "<f2"), ("high", "<u4"), ("low", "u1", 16)])
    low = np.concatenate([blocks["low"] & 15, blocks["low"] >> 4], axis=1).astype(int)
    high = (blocks["high"][:, None] >> np.arange(BLOCK, dtype=np.uint32)) & 1
    return blocks["scale"].astype(np.float32)[:, None] * (low + 16 * high.astype(int) - 16)


@pytest.mark.parametrize(
    ("quantize", "read", "num_bytes", "steps"),
    [(quantize_q8_0, read_q8_0, 34, 127), (quantize_q5_0, read_q5_0, 22, 16)],
    ids=["q8_0", "q5_0"],
)
def test_blocks_hold_the_values_within_a_step(quantize, read, num_bytes, steps):
    values = np.random.default_rng(0).normal(size=(6, 2 * BLOCK)).astype(np.float32)
    values[0] = 0.0
    data = quantize(values)
    assert len(data) == num_bytes * values.size // BLOCK
    blocks = values.reshape(-1, BLOCK)
    step = np.abs(blocks).max(axis=1, keepdims=True) / steps
    # 5 bits reach from -16 to 15 steps, so the largest value of the other sign may be a whole step away.
    assert (np.abs(read(data) - blocks) <= 1.01 * step).all()
    assert np.abs(read(data) - blocks).mean() < 0.3 * step.mean()
