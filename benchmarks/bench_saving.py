"""What a checkpoint costs the training path: everything is copied there, and written by a thread.

    python -m benchmarks.bench_saving MODEL

Measures copying, and writing with hashes and syncs, of weights and moments on the CPU, alternately. On a GPU the copies
cross the bus instead.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import write_result
from whisper_shard.config.train import TrainConfig
from whisper_shard.model.weights import model_weights
from whisper_shard.model.whisper import load_whisper
from whisper_shard.train.build import build_trainable
from whisper_shard.train.ranks import Ranks
from whisper_shard.train.run.checkpoint import save_checkpoint
from whisper_shard.train.run.context import Machine, keep_freed_memory
from whisper_shard.train.run.snapshot import capture_optimizer, copy_own_tensors

TURNS = 5


def main() -> None:
    """Measure and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a Whisper")
    args = parser.parse_args()
    write_result("saving", "python -m benchmarks.bench_saving MODEL", measure(args.model), "torch", "safetensors")


def measure(model: str) -> dict[str, Any]:
    """Return the size in GB and the median seconds of both."""
    keep_freed_memory()
    machine = Machine(device=torch.device("cpu"), dtype=torch.float32, ranks=Ranks())
    trainable = build_trainable(load_whisper(model), TrainConfig(), machine)
    for parameter in trainable.parameters:
        parameter.grad = torch.zeros_like(parameter)
    trainable.optimizer.step()
    groups = {
        "model": model_weights(trainable.model),
        "optimizer": capture_optimizer(trainable.optimizer, trainable.model),
    }
    copying, writing = [], []
    with tempfile.TemporaryDirectory(dir=".") as folder:
        for turn in range(TURNS + 1):
            copies, seconds = time_call(partial(copy_own_tensors, groups, machine.ranks))
            copying.append(seconds)
            save = partial(save_checkpoint, Path(folder), step=turn, tensors=copies, state={})
            writing.append(time_call(save)[1])
    size = sum(tensor.numel() * tensor.element_size() for group in groups.values() for tensor in group.values())
    return {
        "gb": round(size / 1e9, 2),
        "turns": TURNS,
        "copy_seconds": round(statistics.median(copying[1:]), 3),  # the first allocates
        "write_seconds": round(statistics.median(writing[1:]), 3),
    }


def time_call(work: Callable[[], Any]) -> tuple[Any, float]:
    """Return the result of a call and its seconds."""
    began = time.perf_counter()
    result = work()
    return result, time.perf_counter() - began


if __name__ == "__main__":
    main()
