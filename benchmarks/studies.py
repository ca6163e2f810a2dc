"""What studies of many training runs share: their command line, and where finished runs lie."""

import argparse
from collections import defaultdict
from pathlib import Path

Runs = dict[str, dict[str, dict[int, Path]]]
"""Folders of runs by recipe, policy and seed."""


def make_parser(description: str) -> argparse.ArgumentParser:
    """Return the command line of a study of whisper-base, whose runs are named RECIPE:POLICY:SEED."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--model", required=True, help="folder of whisper-base")
    parser.add_argument("--digits", type=Path, required=True, help="folder of the spoken digits: train.csv, test.csv")
    parser.add_argument("--work", type=Path, required=True, help="folder for corpora and finished runs")
    parser.add_argument("--runs", nargs="*", default=[], help="RECIPE:POLICY:SEED ...; default: compare those made")
    parser.add_argument("--threads", type=int, default=1)
    return parser


def find_runs(work: Path, file_name: str) -> Runs:
    """Return the folders below ``work/RECIPE/POLICY-SEED`` that have a file of this name."""
    runs: Runs = defaultdict(lambda: defaultdict(dict))
    for path in sorted(work.glob(f"*/*/{file_name}")):
        policy, _, seed = path.parent.name.rpartition("-")
        runs[path.parent.parent.name][policy][int(seed)] = path.parent
    return runs
