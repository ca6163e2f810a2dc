"""The cleaning loop on spoken digits: a fifth of the transcripts of the training set belong to other recordings.

    python -m benchmarks.bench_cleaning WORK --digits spoken-digits/ --model whisper-base/

A first model is trained for one epoch on everything, scores the training set (`score --write-columns first`), and
`filter --where "first.cer < 0.4"` drops what it contradicts. Three models are then trained alike: on everything (all),
on what is left (loop), and on everything with the right transcripts (clean). WER is that of the test recordings in 30 s
windows. Each step is a command of its own that is not repeated when its output is there, so the benchmark can be
stopped at any time and goes on; ``--only NAME`` runs it up to that step, and ``--write`` writes what is there.
"""

import argparse
import csv
import json
import random
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import describe_machine
from whisper_shard.dataset.index import open_dataset
from whisper_shard.score.bootstrap import BOOTSTRAP_SAMPLES, paired_bootstrap

RESULTS = Path(__file__).parent / "results"
SYSTEMS = ("all", "loop", "clean")
WHERE = "first.cer < 0.4"
PREPARE = ["--min-seconds", "0.05", "--min-text-chars", "1", "--jobs", "1"]
TRAIN = ["--batch-size", "16", "--warmup", "0.1", "--language", "en", "--precision", "bf16", "--max-new-tokens", "16"]
TRAIN += ["--eval-limit", "16", "--eval-every", "100000", "--patience", "0", "--threads", "1", "--workers", "0"]
SCORE = ["--window", "full", "--precision", "bf16", "--max-new-tokens", "16", "--threads", "1", "--language", "en"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder for data, models and scores")
    parser.add_argument("--digits", type=Path, required=True, help="folder with train.csv, test.csv and recordings")
    parser.add_argument("--model", required=True, help="Whisper in a Hugging Face folder")
    parser.add_argument("--train", type=int, default=400, help="training recordings")
    parser.add_argument("--test", type=int, default=300, help="test recordings")
    parser.add_argument("--wrong", type=float, default=0.2, help="share of wrong transcripts")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--lr", type=float, default=5e-5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="stop after this step")
    parser.add_argument("--write", action="store_true", help="write the result of what is there, run nothing")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    for name, outputs, command in () if args.write else steps(args):
        if not all((args.work / output).exists() for output in outputs):
            print("whisper-shard", *command, flush=True)
            subprocess.run([sys.executable, "-m", "whisper_shard", *map(str, command)], check=True)
        if name == args.only:
            return
    write_result(args)


def steps(args: argparse.Namespace) -> Sequence[tuple[str, Sequence[str], Sequence[Any]]]:
    """Return name, files by which one sees that it was done, and command of each step."""
    work = args.work
    if not (work / "wrong.json").exists():
        write_manifests(args)
    datasets = {"all": work / "noisy/train", "loop": work / "kept", "clean": work / "right/train"}
    prepare = [
        (f"prepare-{name}", [f"{name}/train/dataset.json", f"{name}/eval/dataset.json"],
         ["prepare", work / f"{name}.csv", work / name, "--eval-corpus", work / "test.csv", *PREPARE])
        for name in ("noisy", "right")
    ]  # fmt: skip
    common = ["--eval", work / "right/eval", *TRAIN]
    first = ["train", datasets["all"], work / "run-first", "--model", args.model, "--epochs", 1, "--lr", 2e-5, *common]
    find = ["score", work / "run-first/model", datasets["all"], "--write-columns", "first", *SCORE]
    trained = [
        (f"train-{name}", [f"run-{name}/model/model.safetensors"],
         ["train", datasets[name], work / f"run-{name}", "--model", args.model, "--epochs", args.epochs,
          "--lr", args.lr, *common])
        for name in SYSTEMS
    ]  # fmt: skip
    scored = [
        (f"score-{name}", [f"score-{name}/score.json"],
         ["score", work / f"run-{name}/model", work / "right/eval", "--out", work / f"score-{name}", *SCORE])
        for name in SYSTEMS
    ]  # fmt: skip
    return [
        *prepare,
        ("train-first", ["run-first/model/model.safetensors"], first),
        ("find", ["noisy/train/columns/first.json"], find),
        ("filter", ["kept/dataset.json"], ["filter", datasets["all"], datasets["loop"], "--where", WHERE]),
        *(step for pair in zip(trained, scored, strict=True) for step in pair),
    ]


def write_manifests(args: argparse.Namespace) -> None:
    """Write the manifests; wrong transcripts go round among recordings of other digits."""
    draw = random.Random(args.seed)
    rows = {name: list(csv.DictReader((args.digits / f"{name}.csv").open())) for name in ("train", "test")}
    for row in (row for part in rows.values() for row in part):
        row["audios"] = str(args.digits.resolve() / row["audios"])
    train, test = draw.sample(rows["train"], args.train), draw.sample(rows["test"], args.test)
    chosen = draw.sample(range(len(train)), round(args.wrong * len(train)))
    texts = [row["transcription"] for row in train]
    moved = list(texts)
    while any(moved[i] == texts[i] for i in chosen):
        shuffled = draw.sample(chosen, len(chosen))
        for i, j in zip(chosen, shuffled, strict=True):
            moved[i] = texts[j]
        repair(moved, texts, chosen, draw)
    noisy = [{**row, "transcription": text} for row, text in zip(train, moved, strict=True)]
    for name, content in (("right", train), ("noisy", noisy), ("test", test)):
        with (args.work / f"{name}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(content[0]))
            writer.writeheader()
            writer.writerows(content)
    (args.work / "wrong.json").write_text(json.dumps(sorted(train[i]["audios"] for i in chosen)))


def repair(moved: list[str], texts: Sequence[str], chosen: Sequence[int], draw: random.Random) -> None:
    """Exchange transcripts that came back to a recording of the same digit with others, where that helps both."""
    for i in chosen:
        for j in draw.sample(list(chosen), len(chosen)):
            if moved[i] != texts[i]:
                break
            if moved[j] != texts[i] and moved[i] != texts[j]:
                moved[i], moved[j] = moved[j], moved[i]


def write_result(args: argparse.Namespace) -> None:
    wrong = set(json.loads((args.work / "wrong.json").read_text()))
    noisy, kept = (set(open_dataset(args.work / name).columns("source")["source"]) for name in ("noisy/train", "kept"))
    dropped = noisy - kept
    found, lost = dropped & wrong, dropped - wrong
    scored = [name for name in SYSTEMS if (args.work / f"score-{name}/score.json").exists()]
    utterances = {name: read_score(args.work / f"score-{name}/score.json") for name in scored}
    errors = {name: np.array([row["errors"] for row in rows]) for name, rows in utterances.items()}
    systems = {}
    for name in scored:
        score = json.loads((args.work / f"score-{name}/score.json").read_text())["windows"]["full"]["scores"]["basic"]
        systems[name] = {"wer": score["wer"], "interval": score["interval"]}
    report = {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": describe_machine("torch", "transformers", threads=1),
        "commands": [" ".join(map(str, command)) for _, _, command in steps(args)],
        "arguments": {k: v for k, v in vars(args).items() if k not in ("work", "digits", "model", "only", "write")},
        "wrong": len(wrong),
        "found": len(found),
        "found_share": len(found) / len(wrong),
        "good_lost": len(lost),
        "good_lost_share": len(lost) / len(noisy - wrong),
        "wer": systems,
    }
    if len(scored) == len(SYSTEMS):
        words = np.array([max(1, len(row["reference"].split())) for row in utterances["clean"]])
        difference = paired_bootstrap(errors["clean"], errors["loop"], words)
        report["won_back"] = won_back(errors, np.random.default_rng(args.seed))
        report["loop_minus_clean"] = {"difference": difference.difference, "interval": difference.interval}
    report["commands"] = [text.replace(str(args.work), "WORK") for text in report["commands"]]
    path = RESULTS / f"{report['date']}-cleaning.json"
    path.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps({k: v for k, v in report.items() if k not in ("commands", "machine")}, indent=1))


def read_score(path: Path) -> list[dict[str, Any]]:
    return list(json.loads(path.read_text())["windows"]["full"]["utterances"])


def won_back(errors: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """Return which share of the errors that wrong transcripts caused the loop took back, with a 95 % interval."""
    size = len(errors["all"])
    totals = []
    for _ in range(BOOTSTRAP_SAMPLES):
        rows = rng.integers(0, size, size)
        every, loop, clean = (errors[name][rows].sum() for name in SYSTEMS)
        if every > clean:
            totals.append((every - loop) / (every - clean))
    every, loop, clean = (int(errors[name].sum()) for name in SYSTEMS)
    low, high = np.quantile(totals, [0.025, 0.975]) if totals else (None, None)
    return {
        "share": (every - loop) / (every - clean) if every > clean else None,
        "interval": [low, high],
        "samples_in_which_something_was_lost": len(totals),
    }


if __name__ == "__main__":
    main()
