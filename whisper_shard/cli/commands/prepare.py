"""The command `prepare`, and the lines it prints."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from whisper_shard.cli.command import Command
from whisper_shard.cli.console import Progress, say
from whisper_shard.cli.text import describe_bytes, describe_counts, describe_duration, describe_number
from whisper_shard.config.prepare import PrepareConfig

if TYPE_CHECKING:
    from whisper_shard.prepare import events as preparing
    from whisper_shard.prepare.run import PlanReport


def run_prepare(config: PrepareConfig, *, corpus: str, out: str) -> int:
    """Prepare a corpus, or go on with it; with --dry-run, only say what would be done."""
    from whisper_shard.prepare import events
    from whisper_shard.prepare.run import plan_corpus, prepare_corpus

    if config.dry_run:
        for line in describe_dry_run(plan_corpus(Path(corpus), config)):
            say(line)
        return 0
    with Progress("preparing") as progress:
        for event in prepare_corpus(Path(corpus), Path(out), config):
            match event:
                case events.PlanMade():
                    progress.say(describe_plan(event))
                    is_finished = event.num_shards_done == sum(size.num_shards for size in event.splits.values())
                case events.Note():
                    progress.say(f"note: {event.message}")
                case events.Progress():
                    progress.update(event.num_rows_done, event.num_rows, describe_preparation(event))
                case events.Done():
                    done = event
    for name, split in done.splits.items():
        say(describe_split(Path(out) / name, split))
    if is_finished:
        say(f"nothing was left to prepare; `whisper-shard verify {Path(out) / 'train'}` reads every byte again")
        return 0
    report, speed = Path(out) / "train" / "report.html", f"{done.audio_seconds_per_second:,.0f} x real time"
    say(f"done in {describe_duration(done.seconds)}, {speed}; see {report}")
    return 0


def describe_plan(plan: "preparing.PlanMade") -> str:
    """Say what will be done."""
    resumed = f"; done already: {describe_number(plan.num_shards_done, 'shard')}" if plan.num_shards_done else ""
    return (
        f"{describe_number(plan.num_rows, 'row')}: {_describe_sizes(plan.splits)}; "
        f"{describe_number(plan.jobs, 'worker')}{resumed}"
    )


def _describe_sizes(splits: "Mapping[str, preparing.SplitSize]") -> str:
    return ", ".join(
        f"{name} {describe_number(size.num_rows, 'row')} in {describe_number(size.num_shards, 'shard')}"
        for name, size in splits.items()
    )


def describe_preparation(event: "preparing.Progress") -> str:
    """Say how far a preparation is."""
    eta = f", {describe_duration(event.eta_seconds)} left" if event.eta_seconds else ""
    return (
        f"rows; {describe_duration(event.hours_in * 3600)} in, {describe_duration(event.hours_kept * 3600)} kept, "
        f"{event.num_rejects:,} rejects, {event.audio_seconds_per_second:,.0f} x real time{eta}"
    )


def describe_split(folder: object, split: "preparing.SplitTotals") -> str:
    """Say what is in a dataset that was just made."""
    reasons = f": {describe_counts(split.rejects)}" if split.rejects else ""
    return (
        f"{folder}: {describe_number(split.num_utterances, 'utterance')}, {describe_duration(split.seconds_kept)} "
        f"kept of {describe_duration(split.seconds_in)}, {describe_number(split.num_shards, 'shard')}, "
        f"{describe_bytes(split.num_bytes)}; "
        f"{split.num_rejects:,} rejected{reasons}"
    )


def describe_dry_run(plan: "PlanReport") -> Iterator[str]:
    """Say what a run would do, and how the first recordings fare."""
    rows = describe_number(plan.num_rows, "row")
    yield f"{rows}: {_describe_sizes(plan.splits)}; {describe_number(plan.shard_rows, 'row')} per shard"
    sizes = ", ".join(f"{describe_bytes(size)} as {codec}" for codec, size in plan.num_bytes.items())
    kept = describe_duration(plan.hours * 3600)
    yield f"about {kept} will be kept: {sizes} (from {len(plan.sampled)} recordings drawn)"
    failed = [probe for probe in plan.first if probe.reason]
    yield f"the first {len(plan.first)} recordings: {len(plan.first) - len(failed)} are kept, {len(failed)} rejected"
    for probe in failed:
        yield f"  row {probe.row}, {probe.source}: {probe.reason}: {probe.detail}"


COMMAND = Command(
    config=PrepareConfig,
    positionals={
        "corpus": "CSV with audio paths and transcripts",
        "out": "output folder; the same command again resumes",
    },
    run=run_prepare,
)
