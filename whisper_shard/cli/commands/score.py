"""The command `score`, and the lines it prints."""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from whisper_shard.cli.command import DATASET, Command
from whisper_shard.cli.console import Block, Progress, make_table, say, say_warning, show
from whisper_shard.config.score import ScoreConfig, SliceColumn
from whisper_shard.report.quantities import describe_duration
from whisper_shard.score.events import WINDOW_NAMES

if TYPE_CHECKING:
    from whisper_shard.score.columns import ColumnsReport
    from whisper_shard.score.events import ScoreProgress
    from whisper_shard.score.report import ScoreReport

MAX_SLICES_SHOWN = 12
"""Slices by one column in the terminal at most; the page and the JSON file have more."""


def run_score(config: ScoreConfig, *, model: str, dataset: str) -> int:
    """Score a model, or given hypotheses, on a dataset and show where the report lies."""
    if config.write_columns:
        return _write_columns(config, model=model, dataset=dataset)
    if config.probe:
        return _probe(config, model=model, dataset=dataset)
    from whisper_shard.score.compare import describe_comparison
    from whisper_shard.score.run import score_hypotheses, score_model

    with Progress("scoring") as progress:

        def count(event: "ScoreProgress") -> None:
            progress.update(event.num_done, event.num_utterances, f"utterances in {WINDOW_NAMES[event.window]}")

        if config.hypotheses:
            report = score_hypotheses(config.hypotheses, dataset, config, count)
        else:
            report = score_model(model, dataset, config, count)
    for line in describe_score(report):
        say(line)
    if report.comparison:
        say(f"against {report.comparison.name}: {describe_comparison(report.comparison)}")
    for table in tabulate_slices(report, config.slice_columns):
        show(table)
    for warning in report.warnings:
        say_warning(warning)
    say(f"see {report.html_path}, {report.json_path} and {report.table_path}")
    return 0


def _write_columns(config: ScoreConfig, *, model: str, dataset: str) -> int:
    from whisper_shard.score.columns import score_columns

    with Progress("scoring") as progress:

        def show(event: "ScoreProgress") -> None:
            progress.update(event.num_done, event.num_utterances, f"utterances in {WINDOW_NAMES[event.window]}")

        report = score_columns(model, dataset, config, show)
    for line in describe_columns(report, dataset):
        say(line)
    return 0


def _probe(config: ScoreConfig, *, model: str, dataset: str) -> int:
    from whisper_shard.score.probe import probe_model
    from whisper_shard.score.probe_report import describe_probe, find_worse

    with Progress("probing") as progress:

        def count(event: "ScoreProgress") -> None:
            progress.update(event.num_done, event.num_utterances, f"utterances in {WINDOW_NAMES[event.window]}")

        report = probe_model(model, dataset, config, count)
    for line in describe_probe(report):
        say(line)
    for note in (*report.notes, *find_worse(report)):
        say_warning(note)
    say(f"see {report.json_path}")
    return 0


def describe_columns(report: "ColumnsReport", dataset: str) -> Iterator[str]:
    """Say what was stored beside a dataset, and where it and the model differ most."""
    if report.num_missing:
        yield (
            f"{report.num_missing} of {report.num_blocks} blocks are missing: the slice that finishes last writes "
            f"{report.table}"
        )
        return
    if not report.num_with_text:
        yield f"{report.table}: {report.num_utterances:,} utterances, none with a text to compare with"
        condition = f'--relabel {report.name} --where "{report.name}.avg_logprob > -0.5"'
        yield f"next: whisper-shard filter {dataset} VIEW {condition}"
        return
    yield f"{report.table}: {report.num_utterances:,} utterances, WER {report.wer:.2%}"
    if report.worst:
        yield f"the highest character error rates (`whisper-shard inspect {dataset} --key KEY --wav FILE` to listen):"
    for row in report.worst:
        yield f"  {row.key}: {row.cer:.0%}, {row.reference!r} in the dataset, {row.hypothesis!r} by the model"
    yield f'next: whisper-shard filter {dataset} VIEW --where "{report.name}.cer < 0.4"'


def describe_score(report: "ScoreReport") -> Iterator[str]:
    """Say how well a model does, for each kind of window."""
    from whisper_shard.score.page import describe_outputs, describe_speed
    from whisper_shard.score.times import describe_times

    length = describe_duration(report.audio_seconds)
    yield f"{report.num_utterances:,} utterances, {length}; text compared: {report.form}"
    for window in report.windows:
        score = window.scores[report.form]
        low, high = score.interval
        name = WINDOW_NAMES[window.window]
        yield (
            f"{name:<13} WER {score.wer:.2%} (95 % interval {low:.2%} to {high:.2%}), CER {score.cer:.2%}; "
            f"{score.words.substitutions} substitutions, {score.words.deletions} deletions, "
            f"{score.words.insertions} insertions in {score.words.num_reference:,} words"
        )
        raw = window.scores["raw"]
        outputs = ", ".join(f"{name} {share}" for name, share in describe_outputs(window.outputs).items())
        speed = f"; real-time factor {describe_speed(window)}" if math.isfinite(window.real_time_factor) else ""
        if window.times:
            yield f"{'':<13} {describe_times(window.times)}"
        yield f"{'':<13} raw text: WER {raw.wer:.2%}, CER {raw.cer:.2%}; hypotheses {outputs}{speed}"


def tabulate_slices(report: "ScoreReport", wanted: Sequence[SliceColumn]) -> Iterator[Block]:
    """Yield a table of the slices by each wanted column, in the first kind of windows."""
    slices = report.windows[0].slices
    columns = ("WER", "95 % interval", "CER", "utterances", "audio")
    for each in wanted:
        parts = [part for part in slices if part.kind == each.column]
        if not parts:
            continue
        if not parts[0].is_ordered:
            parts.sort(key=lambda part: (part.is_small, -part.words.rate, part.name))
        rows = [
            (
                part.name,
                f"{part.words.rate:.2%}",
                f"{part.interval[0]:.2%} to {part.interval[1]:.2%}",
                f"{part.chars.rate:.2%}",
                f"{part.num_utterances:,}{' (few)' if part.is_small else ''}",
                describe_duration(part.seconds),
            )
            for part in parts[:MAX_SLICES_SHOWN]
        ]
        more = f", and {len(parts) - len(rows):,} more in score.html" if len(parts) > len(rows) else ""
        title = f"\n{WINDOW_NAMES[report.windows[0].window]}, by {each.column}{more}"
        yield make_table(title, (each.column, *columns), rows, numbers={*columns})


COMMAND = Command(
    config=ScoreConfig,
    positionals={"model": "model folder, or a name on the model hub; left out with --hypotheses", **DATASET},
    replaced={"model": "hypotheses"},
    run=run_score,
)
