"""The command `score`, and the lines it prints."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from whisper_shard.cli.command import DATASET, Command
from whisper_shard.cli.console import Progress, say, say_warning
from whisper_shard.config.score import ScoreConfig
from whisper_shard.report.quantities import describe_duration
from whisper_shard.score.events import WINDOW_NAMES

if TYPE_CHECKING:
    from whisper_shard.score.columns import ColumnsReport
    from whisper_shard.score.events import ScoreProgress
    from whisper_shard.score.report import ScoreReport


def run_score(config: ScoreConfig, *, model: str, dataset: str) -> int:
    """Score a model on a dataset and show where the report lies."""
    if config.write_columns:
        return _write_columns(config, model=model, dataset=dataset)
    from whisper_shard.score.run import score_model

    with Progress("scoring") as progress:

        def show(event: "ScoreProgress") -> None:
            progress.update(event.num_done, event.num_utterances, f"utterances in {WINDOW_NAMES[event.window]}")

        report = score_model(model, dataset, config, show)
    for line in describe_score(report):
        say(line)
    for warning in report.warnings:
        say_warning(warning)
    say(f"see {report.html_path} and {report.json_path}")
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
    length = describe_duration(report.audio_seconds)
    yield f"{report.num_utterances:,} utterances, {length}; text compared: {report.form}"
    for window in report.windows:
        score = window.scores[report.form]
        low, high = score.interval
        name = WINDOW_NAMES[window.window]
        capped = f"; {window.cap_hits} cut off at the token limit" if window.cap_hits else ""
        yield (
            f"{name:<13} WER {score.wer:.2%} (95 % interval {low:.2%} to {high:.2%}), CER {score.cer:.2%}; "
            f"{score.words.substitutions} substitutions, {score.words.deletions} deletions, "
            f"{score.words.insertions} insertions in {score.words.num_reference:,} words{capped}"
        )


COMMAND = Command(
    config=ScoreConfig,
    positionals={"model": "model folder, or a name on the model hub", **DATASET},
    run=run_score,
)
