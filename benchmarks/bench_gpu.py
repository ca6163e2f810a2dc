"""Everything that is to be measured on a GPU, in one command, in under 25 minutes.

    make gpu                     # or: python -m benchmarks.bench_gpu --device cuda
    make gpu DEVICE=cpu          # the same on a CPU, with a small model: checks that all parts run

Each part is a process of its own with a time limit; its result is kept in ``--work``, so the same command goes on where
the last one ended, and repeats only what failed or was skipped. ``--parts step-base,attention`` runs some parts only.
At the end one JSON and one table are written to ``benchmarks/results`` (of a CPU: to the work folder); a part that
failed, ran out of time or was skipped stands there as such, with its last line of output.

Needs: the package with the extra `dev` (pytest, accelerate, espeakng-loader for the sentences), and a torch that knows
the GPU; any from 2.9 on. No network: models have the shape of whisper-base, small and large-v3 with random weights,
since speed does not depend on them. ``--model FOLDER`` and ``--digits FOLDER`` add real ones to the comparison with
Seq2SeqTrainer and to the evaluation, whose time depends on the hypotheses. large-v3 needs 40 GB of memory and 7 GB of
disk. MFU needs the bf16 peak of the GPU: known for some, else ``--peak-tflops``.
"""

import argparse
import datetime
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu import gpu_name
from benchmarks.machine import describe_machine
from benchmarks.shapes import make_shaped

PEAK_TFLOPS = {"H200": 989, "H100": 989, "A100": 312, "L40S": 362, "L4": 121, "A10": 125, "RTX 4090": 165}
"""Dense bf16, from NVIDIA's data sheets; of the H100 that of the SXM version."""
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, kw_only=True)
class Part:
    """A process that measures something and writes it as JSON."""

    name: str
    words: Sequence[str]
    """Module and arguments; ``{out}`` is the file to write."""
    seconds: float
    """Time limit."""
    shape: str = ""
    """Model that it needs, made before; empty: none."""


def main() -> None:
    """Run the parts that are not done yet, then write the JSON and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--work", type=Path, default=Path("build/gpu"), help="models and results of parts")
    parser.add_argument("--parts", default="", help="names, separated by commas; empty: all")
    parser.add_argument("--minutes", type=float, default=25.0, help="parts that do not begin before are skipped")
    parser.add_argument("--model", default="", help="folder of a real Whisper; empty: random weights")
    parser.add_argument("--digits", default="", help="folder of spoken digits with train.csv and test.csv; empty: none")
    parser.add_argument("--peak-tflops", type=float, default=0.0, help="bf16 peak of the device; 0: by its name")
    args = parser.parse_args()
    args.work = args.work / args.device.replace(":", "-")
    args.work.mkdir(parents=True, exist_ok=True)
    parts = list(list_parts(args))
    wanted = args.parts.split(",") if args.parts else [part.name for part in parts]
    if unknown := set(wanted) - {part.name for part in parts}:
        parser.error(f"unknown parts {sorted(unknown)}; there are {', '.join(part.name for part in parts)}")
    ends = time.monotonic() + 60 * args.minutes
    found = {part.name: run_part(part, args, ends) if part.name in wanted else read_part(part, args) for part in parts}
    write(found, args)


def list_parts(args: argparse.Namespace) -> Iterator[Part]:
    """Yield the parts, the most important first."""
    on_gpu = args.device.startswith("cuda")
    shapes = ("base", "small", "large-v3") if on_gpu else ("tiny",)
    device = ("--device", args.device)
    peak = args.peak_tflops or next((tflops for name, tflops in PEAK_TFLOPS.items() if name in name_of(args)), 0.0)
    yield Part(
        name="parity", words=("bench_parity", *device, "--model", f"{{{shapes[0]}}}"), seconds=240, shape=shapes[0]
    )
    yield Part(name="tests", words=("run_cuda_tests",), seconds=420)
    for shape in shapes:
        batch = {"tiny": "4", "base": "64", "small": "64", "large-v3": "32"}[shape]
        steps = ("--steps", "6", "--workers", "8", "--peak-tflops", f"{peak}") if on_gpu else ("--steps", "1")
        words = ("bench_step", *device, "--model", f"{{{shape}}}", "--batch", batch, *steps)
        yield Part(name=f"step-{shape}", words=words, seconds=420 if on_gpu else 600, shape=shape)
        if shape == shapes[0]:
            yield Part(name="attention", words=("bench_attention", *device), seconds=180)
    model = args.model or f"{{{shapes[0]}}}"
    digits = ("--digits", args.digits) if args.digits else ()
    size = (
        ("--batch", "64", "--steps", "4", "--workers", "8", "--peak-tflops", f"{peak}")
        if on_gpu
        else ("--batch", "4", "--steps", "1")
    )
    recipe = ("bench_train", *device, "--model", model, *digits, *size)
    yield Part(name="recipe", words=(*recipe, "--out", "{out}"), seconds=420, shape="" if args.model else shapes[0])
    size = (
        ("--utterances", "128", "--batch", "64", "--turns", "3")
        if on_gpu
        else ("--utterances", "4", "--batch", "4", "--turns", "1", "--cap", "32")
    )
    tests = ("--digits", f"{args.digits}/test.csv") if args.digits else ()
    evaluation = ("bench_eval", *device, "--model", model, *tests, *size)
    yield Part(name="eval", words=(*evaluation, "--out", "{out}"), seconds=420, shape="" if args.model else shapes[0])


def run_part(part: Part, args: argparse.Namespace, ends: float) -> dict[str, Any]:
    """Run a part unless it has succeeded before, keep its result and return it."""
    done = read_part(part, args)
    if done["status"] == "ok":
        print(f"{part.name}: done before")
        return done
    left = ends - time.monotonic()
    if left <= 0:
        return keep(part, args, {"status": "skipped", "why": f"--minutes {args.minutes:g} were over"})
    out = args.work / f"{part.name}.out.json"
    out.unlink(missing_ok=True)
    began = time.monotonic()
    folder = make_shaped(part.shape, args.work) if part.shape else Path()
    words = [word.replace("{out}", str(out)).replace(f"{{{part.shape}}}", str(folder)) for word in part.words]
    if "--out" not in words:
        words += ["--out", str(out)]
    print(f"{part.name}: {' '.join(words)}", flush=True)
    log = args.work / f"{part.name}.log"
    with log.open("w") as file:
        try:
            ran = subprocess.run(
                [sys.executable, "-m", f"benchmarks.{words[0]}", *words[1:]],
                stdout=file,
                stderr=subprocess.STDOUT,
                timeout=min(part.seconds, left),
                check=False,
            )
            status = "ok" if ran.returncode == 0 and out.is_file() else "failed"
        except subprocess.TimeoutExpired as error:
            status, ran = f"stopped after {error.timeout:.0f} s", None
    lines = log.read_text(errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    result: dict[str, Any] = {"status": status, "seconds": round(time.monotonic() - began, 1)}
    if status == "ok":
        result["result"] = json.loads(out.read_text())
    else:
        result["why"] = f"{last} (exit code {ran.returncode if ran else None}; {log.name})"
    print(f"{part.name}: {status}, {result['seconds']} s{'' if status == 'ok' else ': ' + last}", flush=True)
    return keep(part, args, result)


def keep(part: Part, args: argparse.Namespace, result: dict[str, Any]) -> dict[str, Any]:
    """Write a result for the next call, and return it."""
    (args.work / f"{part.name}.json").write_text(json.dumps(result, indent=1) + "\n")
    return result


def read_part(part: Part, args: argparse.Namespace) -> dict[str, Any]:
    """Return the result of an earlier call."""
    path = args.work / f"{part.name}.json"
    return json.loads(path.read_text()) if path.is_file() else {"status": "skipped", "why": "not among --parts"}


def name_of(args: argparse.Namespace) -> str:
    return gpu_name(torch.device(args.device)) or ""


def write(found: dict[str, dict[str, Any]], args: argparse.Namespace) -> None:
    """Write ``<date>-gpu-<name>.json`` and a table beside it; of a CPU, ``result.json`` in the work folder."""
    date = datetime.date.today().isoformat()
    machine = describe_machine("torch", "transformers", gpu=name_of(args) or None, cuda=torch.version.cuda)
    command = f"python -m benchmarks.bench_gpu --device {args.device}"
    content = {"date": date, "command": command, "parts": found, "machine": machine}
    name = f"{date}-gpu-{name_of(args).replace(' ', '-').lower()}.json"
    path = RESULTS / name if name_of(args) else args.work / "result.json"
    path.write_text(json.dumps(content, indent=1) + "\n")
    table = "\n".join(list_lines(found))
    path.with_suffix(".md").write_text(f"{table}\n")
    print(f"{table}\nwritten to {path} and {path.with_suffix('.md').name}")


def list_lines(found: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Yield the lines of a table in Markdown: each part, and each measured setting of the steps."""
    yield "| part | status | seconds | |"
    yield "|---|---|---|---|"
    for name, part in found.items():
        yield f"| {name} | {part['status']} | {part.get('seconds', '')} | {part.get('why') or summary(part)} |"
    yield ""
    yield "| model | setting | utterances/s | audio hours an hour | MFU | waiting for data | peak GB |"
    yield "|---|---|---|---|---|---|---|"
    for name, part in found.items():
        for setting, one in part.get("result", {}).get("steps", {}).items():
            numbers = [
                one.get(key)
                for key in ("utterances_per_second", "audio_hours_per_hour", "mfu", "data_wait_share", "peak_gpu_gb")
            ]
            shown = " | ".join("" if number is None else f"{number:.3g}" for number in numbers)
            yield f"| {name.removeprefix('step-')} | {setting} | {one.get('error') or shown} |"


def summary(part: dict[str, Any]) -> str:
    """Return what a part has found, in a line."""
    result = part.get("result", {})
    if "summary" in result:
        return str(result["summary"])
    if "results" in result:  # of bench_eval: share of the time of the fastest Trainer
        sides = {name: one["sides"] for name, one in result["results"].items()}
        shares = [
            f"{corpus}, {name}: {side['share']['fastest']:.0%} of the fastest Trainer"
            for corpus, found in sides.items()
            for name, side in found.items()
            if name.startswith("ours")
        ]
        return "; ".join(shares)
    compared = [one for one in result.values() if isinstance(one, dict) and "ratios" in one]  # of bench_train
    return "; ".join(f"{pair}: {ratio:.1f} x" for one in compared for pair, ratio in one["ratios"].items())


if __name__ == "__main__":
    main()
