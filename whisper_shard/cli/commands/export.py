"""The command `export`, and the lines it prints."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from whisper_shard.cli.command import Command
from whisper_shard.cli.console import Progress, say, say_warning
from whisper_shard.config.export import ExportConfig
from whisper_shard.report.quantities import describe_bytes, describe_number

if TYPE_CHECKING:
    from whisper_shard.export.parity import Parity
    from whisper_shard.export.run import ExportReport

_SHOWN = 5  # utterances that differ; all are in parity.json


def run_export(config: ExportConfig, *, model: str, out: str) -> int:
    """Export a model and show how its texts compare."""
    from whisper_shard.export.run import export_model

    with Progress("comparing") as progress:
        report = export_model(model, Path(out), config, lambda done, total: progress.update(done, total, "recordings"))
    for line in describe_export(report):
        say(line)
    if report.parity:
        for line in describe_parity(report.parity):
            say(line)
        for warning in find_warnings(report.parity, config.tolerance):
            say_warning(warning)
    else:
        say("note: not compared; --check DATASET or RECORDINGS transcribes with the tool and with this package")
    return 0


def describe_export(report: "ExportReport") -> Iterator[str]:
    """Say what was written."""
    yield f"{report.folder}: {report.dtype} for {report.tool}, {describe_bytes(report.num_bytes)}"


def describe_parity(parity: "Parity") -> Iterator[str]:
    """Say how the tool's texts compare with ours, and show some that differ."""
    plain = sum(not row.timestamps for row in parity.differences)
    yield (
        f"{parity.package} against this package in the same window: {parity.disagreement:.2%} WER, "
        f"{plain} of {describe_number(parity.num_samples, 'utterance')} differ"
    )
    if parity.disagreement_timestamps is not None:
        timed = len(parity.differences) - plain
        yield f"decoding with timestamps: {parity.disagreement_timestamps:.2%} WER, {timed} differ"
    if parity.wer_tool is not None:
        yield (
            f"WER against the references: {parity.wer_tool:.2%} by {parity.package}, {parity.wer_window:.2%} here in "
            f"its window, {parity.wer_30s:.2%} here in 30 s windows"
        )
    for row in parity.differences[:_SHOWN]:
        mode = " with timestamps" if row.timestamps else ""
        yield f"  {row.key}{mode}: ours {row.ours!r}, theirs {row.theirs!r}"


def find_warnings(parity: "Parity", tolerance: float) -> Iterator[str]:
    """Yield what a user should know before using the export."""
    if parity.wer_30s is not None and parity.wer_window is not None:
        loss = parity.wer_window - parity.wer_30s
        if loss > tolerance:
            yield (
                f"{parity.package} does not pad audio with silence to 30 s, where this model has {loss:.2%} "
                "more WER; docs/deploy.md says how to pad"
            )
    if parity.num_cut:
        yield (
            f"{parity.package} ends a text by the length of its clip, and cuts {parity.num_cut} of "
            f"{describe_number(parity.num_samples, 'utterance')}; docs/deploy.md says where"
        )
    timed = parity.disagreement_timestamps
    if timed is not None and timed > tolerance:
        yield (
            f"with timestamps {parity.package} transcribes differently ({timed:.2%} WER); decode without, or train "
            "with --timestamps"
        )


COMMAND = Command(
    config=ExportConfig,
    positionals={
        "model": "model folder such as run/model, or a name on the model hub",
        "out": "folder to make; it must be new or empty",
    },
    run=run_export,
)
