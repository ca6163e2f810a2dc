"""Batches for the tests of the model."""

from contextlib import contextmanager

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from tests.making import make_waveform
from whisper_shard.model.labels import Labeler


def make_waveforms(seconds, window_seconds):
    waveforms = torch.zeros(len(seconds), round(window_seconds * 16000))
    for i, length in enumerate(seconds):
        waveform = torch.from_numpy(make_waveform(length, seed=i))
        waveforms[i, : len(waveform)] = waveform
    return waveforms, torch.tensor([round(length * 16000) for length in seconds])


def make_batch(loaded, texts=("one two", "three"), seconds=(2.0, 1.0), window_seconds=3.0):
    waveforms, num_samples = make_waveforms(seconds, window_seconds)
    return waveforms, num_samples, Labeler(loaded.tokenizer).label_batch(list(texts))


class WatchPrecision(TorchFunctionMode):
    """Notes the precision of float32 products at each of them."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in (functional.linear, torch.Tensor.matmul, torch.Tensor.__matmul__):
            self.seen.add(torch.get_float32_matmul_precision())
        return func(*args, **(kwargs or {}))


@contextmanager
def tf32_allowed():
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)
