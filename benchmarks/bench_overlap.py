"""Sums of gradients sent while the backward pass runs against sums sent after it, over a network of a known rate.

    sudo python -m benchmarks.bench_overlap --model whisper-base/ --gigabits 1 10

Two ranks, each with one thread and in a network namespace of its own; the link between them lets through so many
gigabits a second and direction. `during` is `train/gradient_sums.py`; `after` sends the same buckets once the backward
pass is done; `alone` sends nothing. All take the same random log-mels of 30 s, in turns. Needs Linux, root and
iproute2, whose rates are those of a token bucket (tc-tbf). Writes benchmarks/results/<date>-overlap.json.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from transformers import WhisperForConditionalGeneration
from transformers.utils.logging import disable_progress_bar

from benchmarks.machine import write_result
from whisper_shard.train.gradient_sums import GradientSums
from whisper_shard.train.ranks import Ranks

SPACES = ("overlap-0", "overlap-1")
ADDRESSES = ("10.77.0.1", "10.77.0.2")
PORT = 29_777
TOKENS = 32
"""Tokens of each text."""
BURST_BYTES = 2**20
"""What the link lets through at once."""


class LateSums(GradientSums):
    """Sends all buckets when the last pass has ended."""

    def start_last_pass(self) -> None:
        """Send nothing yet."""


def main() -> None:
    """Measure at each rate, and write seconds a step."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="folder of whisper-base")
    parser.add_argument("--gigabits", nargs="+", type=float, default=[1.0, 10.0], help="rates of the link")
    parser.add_argument("--batch", type=int, default=1, help="windows of each rank and step")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.rank is not None:
        run_rank(args.rank, args.model, args.batch, args.turns)
        return
    if os.geteuid() != 0:
        parser.error("network namespaces need root: put sudo before the command")
    result = {"ranks": 2, "windows_of_a_rank": args.batch, "turns": args.turns}
    rates = {}
    for gigabits in args.gigabits:
        with open_link(gigabits):
            rates[f"{gigabits:g}"] = found = measure(args.model, args.batch, args.turns)
        seconds = {name: f"{value['median']:.2f} s" for name, value in found["seconds_of_a_step"].items()}
        print(f"{gigabits:g} Gbit/s: {seconds}, {found['hidden']:.0%} of the sums hidden", flush=True)
    command = f"sudo python -m {__spec__.name} --model MODEL"
    write_result("overlap", command, {**result, "by_gigabits": rates}, "torch", "transformers")


@contextmanager
def open_link(gigabits: float) -> Iterator[None]:
    """Join two network namespaces by a link with a rate, and remove them at the end."""
    for space in SPACES:
        subprocess.run(["ip", "netns", "del", space], check=False, capture_output=True)  # of a run that was killed
        call("ip", "netns", "add", space)
    try:
        peer = ("peer", "name", "end-1", "netns", SPACES[1])
        call("ip", "link", "add", "end-0", "netns", SPACES[0], "type", "veth", *peer)
        for number, (space, address) in enumerate(zip(SPACES, ADDRESSES, strict=True)):
            inside, end = ("ip", "netns", "exec", space), f"end-{number}"
            call(*inside, "ip", "addr", "add", f"{address}/24", "dev", end)
            call(*inside, "ip", "link", "set", "lo", "up")
            call(*inside, "ip", "link", "set", end, "up")
            limit = ("tbf", "rate", f"{gigabits}gbit", "burst", str(BURST_BYTES), "latency", "50ms")
            call(*inside, "tc", "qdisc", "add", "dev", end, "root", *limit)
        yield
    finally:
        for space in SPACES:
            call("ip", "netns", "del", space)


def call(*words: str) -> None:
    """Run a command that must succeed."""
    subprocess.run(words, check=True)


def measure(model: str, batch: int, turns: int) -> dict[str, Any]:
    """Return what the slower rank has measured in each way, and which part of the sums the backward pass hides."""
    command = [sys.executable, "-m", "benchmarks.bench_overlap", "--model", model]
    ranks = [
        subprocess.Popen(
            ["ip", "netns", "exec", space, *command, "--batch", str(batch), "--turns", str(turns), "--rank", str(rank)],
            stdout=subprocess.PIPE,
            env={**os.environ, "GLOO_SOCKET_IFNAME": f"end-{rank}", "OMP_NUM_THREADS": "1"},
        )
        for rank, space in enumerate(SPACES)
    ]
    outputs = [rank.communicate()[0] for rank in ranks]
    if any(rank.returncode for rank in ranks):
        raise SystemExit("a rank has failed; see above")
    found = [json.loads(output) for output in outputs]
    seconds = {name: [max(both) for both in zip(*(of[name] for of in found), strict=True)] for name in found[0]}
    middle = {name: median(values) for name, values in seconds.items()}
    return {
        "seconds_of_a_step": {name: {"median": middle[name], "all": values} for name, values in seconds.items()},
        "hidden": (middle["after"] - middle["during"]) / (middle["after"] - middle["alone"]),
    }


def run_rank(rank: int, folder: str, batch: int, turns: int) -> None:
    """Print seconds of steps in each way as JSON."""
    torch.set_num_threads(1)
    disable_progress_bar()
    dist.init_process_group("gloo", init_method=f"tcp://{ADDRESSES[0]}:{PORT}", rank=rank, world_size=2)
    generator = torch.Generator().manual_seed(rank)
    ways = {"alone": (GradientSums, 1), "after": (LateSums, 2), "during": (GradientSums, 2)}
    models = {name: WhisperForConditionalGeneration.from_pretrained(folder, dtype=torch.float32) for name in ways}
    sums = {
        name: kind([p for p in models[name].parameters() if p.requires_grad], Ranks(world=world, rank=rank))
        for name, (kind, world) in ways.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(turns + 1):
        for name, model in models.items():
            took = time_step(model, sums[name], batch, generator)
            if turn:  # the first connects and allocates
                seconds[name].append(took)
    dist.destroy_process_group()
    print(json.dumps(seconds))


def time_step(model: nn.Module, sums: GradientSums, batch: int, generator: torch.Generator) -> float:
    """Return the seconds of a forward and a backward pass and the sums, after both ranks are ready."""
    config = model.config
    mels = torch.randn(batch, config.num_mel_bins, 3000, generator=generator)
    labels = torch.randint(config.vocab_size, (batch, TOKENS), generator=generator)
    model.train()
    sums.clear()
    dist.barrier()
    began = time.perf_counter()
    sums.start_last_pass()
    model(input_features=mels, labels=labels).loss.backward()
    sums.finish()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
