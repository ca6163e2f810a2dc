"""What there is to say about a run, finished or not, for comparing it with others."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whisper_shard.errors import StateError
from whisper_shard.train.run.folder import RunFolder, read_report
from whisper_shard.train.run.metrics import read_metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """A run in numbers; None: not known yet."""

    run: str
    """Its folder."""
    settings: dict[str, Any]
    """All settings by name."""
    eval_sha256: str
    """The evaluation data: error rates of different data cannot be compared."""
    is_finished: bool
    """Whether it has a report."""
    steps: int
    """Optimizer steps made, as far as the metrics say."""
    best_step: int | None
    """Step with the lowest WER in 30 s windows."""
    wer_before: float | None
    """WER before training, in 30 s windows."""
    wer: float | None
    """WER of the result, else the lowest so far, in 30 s windows."""
    wer_interval: tuple[float, float] | None
    """Its 95 % bootstrap interval."""
    wer_short: float | None
    """WER of the result in windows as short as the audio."""
    cer: float | None
    """Character error rate in 30 s windows."""
    stopped: str
    """Why it ended, or ``not finished``."""


def summarize_run(path: Path) -> RunSummary:
    """Read settings, metrics and report of a run.

    Raises:
        StateError: The folder holds no run.
    """
    folder = RunFolder(path=path)
    try:
        description = json.loads(folder.settings.read_bytes())
        settings, eval_sha256 = dict(description["settings"]), str(description["data"]["eval"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StateError(f"{path}: not the folder of a run: {folder.settings.name} is missing or damaged") from error
    lines = read_metrics(path)
    evaluations = [line for line in lines if line["kind"] == "eval" and line.get("wer") is not None]
    best: dict[str, Any] = min(evaluations, key=lambda line: line["wer"], default={})
    so_far = (best["wer_low"], best["wer_high"]) if best else None
    report = read_report(folder)
    return RunSummary(
        run=str(path),
        settings=settings,
        eval_sha256=eval_sha256,
        is_finished=report is not None,
        steps=report.steps if report else max((line["step"] for line in lines), default=0),
        best_step=report.best_step if report else best.get("step"),
        wer_before=next((line["wer"] for line in evaluations if line["step"] == 0), None),
        wer=report.wer if report else best.get("wer"),
        wer_interval=report.wer_interval if report else so_far,
        wer_short=report.wer_short if report else None,
        cer=report.cer if report else best.get("cer"),
        stopped=report.stopped if report else "not finished",
    )


def find_differences(runs: Sequence[RunSummary]) -> dict[str, list[Any]]:
    """Return the value of each setting in each run, for the settings that are not the same in all of them.

    A setting that a run of an older version did not have is None there.
    """
    names = dict.fromkeys(name for run in runs for name in run.settings)
    values = {name: [run.settings.get(name) for run in runs] for name in names}
    return {name: found for name, found in values.items() if any(value != found[0] for value in found)}
