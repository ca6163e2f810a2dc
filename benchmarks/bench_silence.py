"""Borrowed silence pressed until it breaks: loss and WER in 30 s windows against training in 30 s windows.

    python -m benchmarks.bench_silence --model whisper-base/ --digits spoken-digits/ --work runs/silence \
        --runs drift:full:1 drift:auto:1 noise:full:1 noise:auto:1

A run is RECIPE:POLICY:SEED, of `RECIPES` and `POLICIES`. The recipe says corpus, steps and batch; the policy says in
which windows they are trained. Runs with the same recipe and seed see the same utterances in the same order. Finished
runs are kept in ``--work`` and not repeated; one that was stopped goes on from its last checkpoint. Without ``--runs``
all runs are compared with `full` (in the recipe watch with `noise-lent`) of the same recipe and seed as far as both
went, and the JSON is written.

Intervals: 95 % of differences, bootstrapped over test utterances, with all seeds added.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import write_result
from benchmarks.silence_corpora import write_corpus
from benchmarks.silence_runs import WINDOWS_AT_END, Row, Run, make_run
from benchmarks.studies import find_runs, make_parser
from whisper_shard.demo.tiny_whisper import make_tiny_whisper
from whisper_shard.model.device import set_threads
from whisper_shard.score.bootstrap import paired_bootstrap
from whisper_shard.train.window_gap import NUM_COMPARED, WindowGap


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What all policies have in common."""

    corpus: str
    """Name in `silence_corpora.CORPORA`."""
    steps: int
    """Optimizer steps."""
    batch: int
    """Utterances a step."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Further settings that differ from the defaults."""
    marks: int = 1
    """Utterances scored at each evaluation before the last."""
    tested: int = 48
    """Utterances scored at the last evaluation; 0: all."""
    is_random: bool = False
    """Whether the model begins with random weights instead of those of ``--model``."""
    rival: str = "full"
    """Policy that all others are compared with."""


SCRATCH = {"lr": 2e-3, "eval_every": 100}
RECIPES = {
    "drift": Recipe(corpus="plain", steps=600, batch=2, settings={"eval_every": 200, "lr": 1e-5}, marks=48, tested=0),
    "plain": Recipe(corpus="plain", steps=30, batch=4),
    "lora": Recipe(corpus="plain", steps=30, batch=4, settings={"lora_rank": 8, "lr": 1e-3}),
    "noise": Recipe(corpus="noise", steps=30, batch=4),
    "gated-noise": Recipe(corpus="gated-noise", steps=30, batch=4),
    "music": Recipe(corpus="music", steps=30, batch=4),
    "long": Recipe(corpus="long", steps=30, batch=4, tested=32),
    "lengths": Recipe(corpus="lengths", steps=30, batch=4),
    "digits": Recipe(corpus="digits", steps=20, batch=4),
    "random": Recipe(corpus="digits", steps=400, batch=16, settings=SCRATCH, marks=120, tested=0, is_random=True),
    "watch": Recipe(corpus="digits", steps=40, batch=4, settings={"watch_every": 5}, tested=32, rival="noise-lent"),
}
"""By name. lora: rank 8; random: a model of width 128 from scratch; watch: windows are compared every 5 steps."""
POLICIES: dict[str, dict[str, Any]] = {
    "full": {"window": "full"},
    "auto": {},
    "short": {"beyond": "nothing"},
    "refresh-8": {"refresh": 8},
    "frozen": {"refresh": 0},
    "constants": {"lends": "constants"},
    "noise-lent": {"lends": "noise"},
    "noise-lent-raised": {"lends": "noise", "raise_full_share": True},
    "music-lent": {"lends": "music"},
    "music-lent-raised": {"lends": "music", "raise_full_share": True},
}
"""Settings that differ from the defaults. short borrows nothing. refresh-8 computes the silence anew in every eighth
step only, and frozen only in the first. constants learns a key and a value for each head instead. The others borrow
a background that is 12 dB louder than the silence source: a fault that the comparison of windows should find. None of
these is a setting of `train`."""
NUM_FOURS = 10_000
"""Random fours of utterances of which the gap between windows is counted."""
_COLUMNS = "| speech | WER | theirs | difference, points | loss | theirs | difference |\n" + 11 * "|---" + "|"


def main() -> None:
    """Make the given runs, or compare those that were made."""
    parser = make_parser(__doc__.splitlines()[0])
    parser.add_argument("--name", default="silence", help="name of the result in benchmarks/results")
    args = parser.parse_args()
    set_threads(args.threads)
    for name in args.runs:
        run, recipe = plan_run(name, args.work, args.threads)
        write_corpus(recipe.corpus, run.data, args.digits)
        make_run(run, make_random_model(args.work / "random-model") if recipe.is_random else args.model)
    if not args.runs:
        result = compare_all(args.work)
        print_table(result)
        command = f"python -m {__spec__.name} --model MODEL --digits DIGITS --work FOLDER --name {args.name}"
        write_result(args.name, command, result)


def plan_run(name: str, work: Path, threads: int) -> tuple[Run, Recipe]:
    """Return the run of a name RECIPE:POLICY:SEED, and its recipe."""
    recipe_name, policy, seed = name.split(":")
    recipe, policy_settings = RECIPES[recipe_name], dict(POLICIES[policy])
    refresh, lends = policy_settings.pop("refresh", 1), policy_settings.pop("lends", "silence")
    defaults = {
        "language": "en", "precision": "bf16", "lr": 2e-5, "warmup": 0.1, "workers": 0, "log_every": 1, "patience": 0,
        "tensorboard": False, "save_minutes": 5.0, "threads": threads, "seed": int(seed),
        "max_steps": recipe.steps, "batch_size": recipe.batch, "eval_every": recipe.steps,
    }  # fmt: skip
    run = Run(
        data=work / "data" / recipe.corpus,
        folder=work / recipe_name / f"{policy}-{seed}",
        settings={**defaults, **recipe.settings, **policy_settings},
        marks=recipe.marks,
        tested=recipe.tested,
        refresh=refresh,
        lends=lends,
    )
    return run, recipe


def make_random_model(folder: Path) -> str:
    """Write a Whisper of width 128 with random weights, unless it exists."""
    digits = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    if not (folder / "config.json").is_file():
        make_tiny_whisper(folder, texts=digits, width=128, encoder_layers=2, decoder_layers=2)
    return str(folder)


def compare_all(work: Path) -> dict[str, Any]:
    """Return all runs as far as they went, and each policy compared with the recipe's rival over the seeds of both."""
    return {recipe: compare_recipe(recipe, policies) for recipe, policies in find_runs(work, "marks.jsonl").items()}


def compare_recipe(recipe: str, policies: dict[str, dict[int, Path]]) -> dict[str, Any]:
    """Return the runs of a recipe, by policy and seed, and each policy compared with the recipe's rival."""
    rival = RECIPES[recipe].rival if recipe in RECIPES else Recipe.rival
    return {
        "runs": {
            f"{policy}-{seed}": describe_run(folder)
            for policy, by_seed in policies.items()
            for seed, folder in by_seed.items()
        },
        "rival": rival,
        "against_rival": {
            policy: compare([by_seed[s] for s in seeds], [policies[rival][s] for s in seeds])
            for policy, by_seed in policies.items()
            if policy != rival and (seeds := sorted(set(by_seed) & set(policies.get(rival, {}))))
        },
    }


def describe_run(folder: Path) -> dict[str, Any]:
    """Return cost and settings of a finished run, WER and loss at every mark, and 30 s windows against borrowed ones.

    ``full_against_borrowed`` compares the same weights in 30 s windows (ours) and in short windows with borrowed
    silence (theirs), which `auto` was trained in: what training has learned there and 30 s windows do not show.
    ``full_against_short`` compares them with short windows alone.
    """
    marks = read_marks(folder)
    found = {step: {window: summarize(rows) for window, rows in mark.items()} for step, mark in marks.items()}
    against = {
        f"full_against_{window}": {
            step: compare_rows([mark["full"]], [mark[window]]) for step, mark in marks.items() if window in mark
        }
        for window in WINDOWS_AT_END
    }
    gaps = {step: spread_of_gaps(m["full"], m["borrowed"]) for step, m in marks.items() if "borrowed" in m}
    return {**read_cost(folder), "marks": found, **against, "gaps_of_fours": gaps}


def spread_of_gaps(full: Sequence[Row], borrowed: Sequence[Row]) -> dict[str, float]:
    """Return what the comparison during training would find: gaps of random fours of scored utterances."""
    values = np.array(
        [(ours["loss"], theirs["loss"], ours["tokens"]) for ours, theirs in zip(full, borrowed, strict=True)]
    )
    rng = np.random.default_rng(0)
    fours = [rng.choice(len(values), NUM_COMPARED, replace=False) for _ in range(NUM_FOURS)]
    gaps = [
        WindowGap(utterances=NUM_COMPARED, full=float(ours / tokens), borrowed=float(theirs / tokens))
        for ours, theirs, tokens in (values[four].sum(axis=0) for four in fours)
    ]
    return {
        "fours": NUM_FOURS,
        "quantile_99": float(np.quantile([gap.gap for gap in gaps], 0.99)),
        "too_wide": sum(gap.is_wide for gap in gaps) / NUM_FOURS,
    }


def read_cost(folder: Path) -> dict[str, Any]:
    """Return cost and settings of a run; of one not finished only what it has cost so far, if known."""
    path, seconds = folder / "run.json", folder / "cpu_seconds.txt"
    if path.is_file():
        return dict(json.loads(path.read_text()))
    return {"cpu_seconds_so_far": sum(map(float, seconds.read_text().split()))} if seconds.is_file() else {}


def read_marks(folder: Path) -> dict[int, dict[str, list[Row]]]:
    """Return the scored utterances of a run by step and window, sorted by key; of a step scored twice, the last."""
    marks = [json.loads(line) for line in (folder / "marks.jsonl").read_text().splitlines()]
    return {
        mark.pop("step"): {window: sorted(rows, key=lambda row: row["key"]) for window, rows in mark.items()}
        for mark in marks
    }


def split_kinds(rows: Sequence[Row]) -> Iterator[tuple[str, list[Row]]]:
    """Yield the rows of all speech, and those of read speech and of digits where there are both."""
    yield "all", list(rows)
    read = [row for row in rows if row["key"].startswith("read")]
    if 0 < len(read) < len(rows):
        yield "read", read
        yield "digits", [row for row in rows if not row["key"].startswith("read")]


def summarize(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """Return WER, errors, and loss of a token for each kind of speech."""
    return {
        kind: {
            "utterances": len(part),
            "wer": sum(row["errors"] for row in part) / sum(row["words"] for row in part),
            "errors": sum(row["errors"] for row in part),
            "loss": sum(row["loss"] for row in part) / sum(row["tokens"] for row in part),
        }
        for kind, part in split_kinds(rows)
    }


def compare(ours: Sequence[Path], rivals: Sequence[Path]) -> dict[str, Any]:
    """Compare runs with those of a rival with the same seeds: cost, and WER and loss in 30 s at the marks of all."""
    costs = [[read_cost(folder).get("cpu_seconds") for folder in folders] for folders in (ours, rivals)]
    mine, theirs = ([read_marks(folder) for folder in folders] for folders in (ours, rivals))
    steps = sorted(set.intersection(*(set(marks) for marks in (*mine, *theirs))))
    return {
        "seeds": len(ours),
        "cpu_share": sum(costs[0]) / sum(costs[1]) if None not in (*costs[0], *costs[1]) else None,
        "steps": {
            step: compare_rows(*([marks[step]["full"] for marks in runs] for runs in (mine, theirs))) for step in steps
        },
    }


def compare_rows(ours: Sequence[Sequence[Row]], rivals: Sequence[Sequence[Row]]) -> dict[str, Any]:
    """Compare scored utterances of some runs with those of a rival's.

    Values of all seeds are added utterance by utterance, so that a resampled corpus is the same for all runs.
    """
    result: dict[str, Any] = {}
    for kind, first in split_kinds(ours[0]):
        keys = {row["key"] for row in first}
        for name, sums, counts in (("wer", "errors", "words"), ("loss", "loss", "tokens")):
            mine, theirs, count = (
                add_up(runs, keys, value) for runs, value in ((ours, sums), (rivals, sums), (ours, counts))
            )
            result.setdefault(kind, {})[name] = {
                "ours": sum(mine) / sum(count),
                "theirs": sum(theirs) / sum(count),
                "difference_interval": paired_bootstrap(theirs, mine, count).interval,
            }
    return result


def add_up(runs: Sequence[Sequence[Row]], keys: set[str], value: str) -> list[float]:
    """Return the sum over runs of a value of each utterance.

    Raises:
        ValueError: The runs were not scored on the same utterances.
    """
    columns = [[row for row in rows if row["key"] in keys] for rows in runs]
    if len({tuple(row["key"] for row in rows) for rows in columns}) > 1:
        raise ValueError("runs that are compared must be scored on the same utterances")
    return [sum(row[value] for row in rows) for rows in zip(*columns, strict=True)]


def print_table(result: dict[str, Any]) -> None:
    """Print all comparisons, each at the last mark of both, as tables in Markdown."""
    print(f"| recipe | policy, seeds | against | step | cost {_COLUMNS}")
    for recipe, found in result.items():
        for policy, row in found["against_rival"].items():
            step = max(row["steps"])
            cost = "" if row["cpu_share"] is None else f"{row['cpu_share']:.0%}"
            start = f"| {recipe} | {policy}, {row['seeds']} | {found['rival']} | {step} | {cost}"
            print_rows(start, row["steps"][step])
    for window in WINDOWS_AT_END:
        print(f"\n| recipe | run, in 30 s against {window} windows | step | seconds of a window {_COLUMNS}")
        for recipe, found in result.items():
            for run, row in found["runs"].items():
                for step, values in row[f"full_against_{window}"].items():
                    print_rows(f"| {recipe} | {run} | {step} | {row.get('mean_window_seconds', 0):.1f}", values)


def print_rows(start: str, values: dict[str, Any]) -> None:
    """Print a line of a table for each kind of speech."""
    for kind, value in values.items():
        wer, loss = value["wer"], value["loss"]
        points = " to ".join(f"{100 * x:+.2f}" for x in wer["difference_interval"])
        print(
            f"{start} | {kind} | {wer['ours']:.2%} | {wer['theirs']:.2%} | {points} | {loss['ours']:.4f} | "
            f"{loss['theirs']:.4f} | {' to '.join(f'{x:+.4f}' for x in loss['difference_interval'])} |"
        )


if __name__ == "__main__":
    main()
