"""The page of a run, ``RUN/run.html``: written anew at each evaluation, and readable while the run goes on."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from whisper_shard.config.settings import flatten_settings
from whisper_shard.config.train import TrainConfig
from whisper_shard.report.lines import Line, make_line
from whisper_shard.report.page import render_page
from whisper_shard.report.quantities import describe_duration
from whisper_shard.storage.atomic import atomic_file
from whisper_shard.train.run.folder import RunFolder, TrainReport, read_report
from whisper_shard.train.run.metrics import read_metrics

PAGE_NAME = "run.html"
NUM_SAMPLES = 5
"""Utterances whose hypotheses are shown over time."""
MAX_WARNINGS = 10
"""Warnings shown, the newest first."""
MAX_HYPOTHESES = 12
"""Hypotheses of an utterance that are shown: the first and the newest ones."""
_CHARTS = {
    "loss": ("loss of a token", ".4g"),
    "lr": ("learning rate", ".3g"),
    "grad_norm": ("gradient norm", ".3g"),
    "utterances_per_second": ("utterances per second", ",.1f"),
    "data_wait_share": ("share of the time waited for data", ".1%"),
}


def write_run_page(folder: RunFolder) -> None:
    """Write the page from settings, metrics and report of the run.

    Raises:
        EnvironmentFault: It cannot be written.
    """
    description = json.loads(folder.settings.read_bytes())
    lines = read_metrics(folder.path)
    evaluations = [line for line in lines if line["kind"] == "eval" and line.get("wer") is not None]
    report = read_report(folder)
    page = render_page(
        "run.html",
        run=folder.shown,
        state="finished" if report else "not finished",
        summary=_summarize(lines, evaluations, report),
        warnings=[line["message"] for line in reversed(lines) if line.get("message")][:MAX_WARNINGS],
        charts=list(_draw(lines, evaluations)),
        samples=_collect_samples(evaluations),
        settings=list(_list_changed(description["settings"])),
        data=list(_list_data(description)),
    )
    with atomic_file(folder.path / PAGE_NAME) as file:
        file.write(page.encode())


def _summarize(
    lines: Sequence[Mapping[str, Any]], evaluations: Sequence[Mapping[str, Any]], report: TrainReport | None
) -> str:
    if report:
        low, high = report.wer_interval
        return (
            f"WER {report.wer:.2%} in 30 s windows (95 % interval {low:.2%} to {high:.2%}), {report.wer_short:.2%} in "
            f"short ones; {report.wer_before:.2%} before training. Weights: {report.chosen}, step {report.best_step} "
            f"of {report.steps}, in {describe_duration(report.seconds)}."
        )
    step = max((line["step"] for line in lines), default=0)
    if not evaluations:
        return f"Step {step}; not evaluated yet."
    best = min(evaluations, key=lambda line: line["wer"])
    newest = evaluations[-1]
    return (
        f"Step {step}. Newest WER {newest['wer']:.2%} (step {newest['step']}), lowest {best['wer']:.2%} (step "
        f"{best['step']}), {evaluations[0]['wer']:.2%} at step {evaluations[0]['step']}; in 30 s windows."
    )


def _draw(lines: Sequence[Mapping[str, Any]], evaluations: Sequence[Mapping[str, Any]]) -> Iterator[Line | None]:
    yield make_line(
        [line["step"] for line in evaluations],
        [line["wer"] for line in evaluations],
        label="WER in 30 s windows, with its 95 % interval",
        scale=".1%",
        intervals=[(line["wer_low"], line["wer_high"]) for line in evaluations],
    )
    for name in dict.fromkeys(line["dataset"] for line in lines if line["kind"] == "also"):
        also = [
            line for line in lines if line["kind"] == "also" and line["dataset"] == name and line["wer"] is not None
        ]
        yield make_line(
            [line["step"] for line in also],
            [line["wer"] for line in also],
            label=f"WER in 30 s windows on {name}, which decides nothing",
            scale=".1%",
            intervals=[(line["wer_low"], line["wer_high"]) for line in also],
        )
    watched = [line for line in lines if line["kind"] == "watch" and line.get("gap") is not None]
    yield make_line(
        [line["step"] for line in watched],
        [line["gap"] for line in watched],
        label="loss of a token in 30 s windows, minus that of the same utterances in short ones",
        scale=".3g",
    )
    for name, (label, scale) in _CHARTS.items():
        # A number that is not finite is null in metrics.jsonl.
        trained = [line for line in lines if line["kind"] == "train" and line.get(name) is not None]
        yield make_line([line["step"] for line in trained], [line[name] for line in trained], label=label, scale=scale)


def _collect_samples(evaluations: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for line in evaluations:
        for sample in line.get("samples", ()):
            entry = found.setdefault(sample["key"], {**sample, "hypotheses": []})
            entry["hypotheses"].append((line["step"], sample["hypothesis"]))
    for entry in found.values():
        texts = entry["hypotheses"]
        entry["hypotheses"] = texts if len(texts) <= MAX_HYPOTHESES else [texts[0], *texts[1 - MAX_HYPOTHESES :]]
    return list(found.values())


def _list_changed(settings: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    defaults = json.loads(json.dumps(flatten_settings(TrainConfig()), default=dict))
    for name, value in settings.items():
        if value != defaults.get(name):
            yield {"setting": name, "value": str(value), "default": str(defaults.get(name, "none"))}


def _list_data(description: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    for part in ("data", "versions"):
        for name, value in description.get(part, {}).items():
            yield {"what": name, "value": str(value)}
