"""The command `prepare`, and the lines it prints."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from whisper_shard.cli.command import Command
from whisper_shard.cli.console import Progress, say
from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.report.quantities import describe_bytes, describe_counts, describe_duration, describe_number
from whisper_shard.storage.location import Location, parse_location

if TYPE_CHECKING:
    from whisper_shard.prepare import events
    from whisper_shard.prepare.estimate import Estimate


def run_prepare(config: PrepareConfig, *, corpus: str, out: str) -> int:
    """Prepare a corpus, or resume; with --dry-run, only print what would be done."""
    from whisper_shard.prepare.estimate import estimate_corpus

    source, output = parse_location(corpus), parse_location(out)
    if config.dry_run:
        for line in describe_estimate(estimate_corpus(source, config)):
            say(line)
        return 0
    return _prepare(config, corpus=source, out=output)


def _prepare(config: PrepareConfig, *, corpus: Location, out: Location) -> int:
    from whisper_shard.prepare import events
    from whisper_shard.prepare.run import prepare_corpus, prepare_slice

    with Progress("preparing") as progress:
        for event in (prepare_slice if config.slice else prepare_corpus)(corpus, out, config):
            match event:
                case events.PlanMade():
                    progress.say(describe_plan(event))
                    is_finished = event.num_shards_done == sum(size.num_shards for size in event.splits.values())
                case events.Note():
                    progress.say(f"note: {event.message}")
                case events.Progress():
                    progress.update(event.num_rows_done, event.num_rows, describe_progress(event))
                case events.SliceDone():
                    progress.say(describe_slice(event))
                    return 0
                case events.Done():
                    done = event
    for name, split in done.splits.items():
        say(describe_split(out.join(name), split))
    if config.segment != "none":
        for line in describe_cut(out, done.splits):
            say(line)
    if is_finished:
        say(f"nothing was left to prepare; `whisper-shard verify {out.join('train')}` reads every byte again")
    else:
        speed = f"{done.audio_seconds_per_second:,.0f} x real time"
        say(f"done in {describe_duration(done.seconds)}, {speed}; see {out.join('train', 'report.html')}")
    return 0


def describe_plan(plan: "events.PlanMade") -> str:
    """Return a line about the plan."""
    resumed = f"; done already: {describe_number(plan.num_shards_done, 'shard')}" if plan.num_shards_done else ""
    return (
        f"{describe_number(plan.num_rows, 'row')}: {_describe_sizes(plan.splits)}; "
        f"{describe_number(plan.jobs, 'worker')}{resumed}"
    )


def _describe_sizes(splits: "Mapping[str, events.SplitSize]") -> str:
    return ", ".join(
        f"{name} {describe_number(size.num_rows, 'row')} in {describe_number(size.num_shards, 'shard')}"
        for name, size in splits.items()
    )


def describe_slice(done: "events.SliceDone") -> str:
    """Return a line about a slice, and what to do next."""
    left = (
        f"{describe_number(done.num_missing, 'shard')} of other slices to come"
        if done.num_missing
        else "no shard is missing: run the same command with --finish instead of --slice"
    )
    return (
        f"slice {done.slice}: {describe_number(done.num_shards, 'shard')} prepared in "
        f"{describe_duration(done.seconds)}; {left}"
    )


def describe_progress(event: "events.Progress") -> str:
    """Return the note behind the progress bar."""
    eta = f", {describe_duration(event.eta_seconds)} left" if event.eta_seconds else ""
    return (
        f"rows; {describe_duration(event.hours_in * 3600)} in, {describe_duration(event.hours_kept * 3600)} kept, "
        f"{event.num_rejects:,} rejects, {event.audio_seconds_per_second:,.0f} x real time{eta}"
    )


def describe_split(folder: object, split: "events.SplitTotals") -> str:
    """Return a line about a finished dataset."""
    reasons = f": {describe_counts(split.rejects)}" if split.rejects else ""
    return (
        f"{folder}: {describe_number(split.num_utterances, 'utterance')}, {describe_duration(split.seconds_kept)} "
        f"kept of {describe_duration(split.seconds_in)}, {describe_number(split.num_shards, 'shard')}, "
        f"{describe_bytes(split.num_bytes)}; "
        f"{split.num_rejects:,} rejected{reasons}"
    )


def describe_cut(out: Location, splits: "Mapping[str, events.SplitTotals]") -> Iterator[str]:
    """Yield lines about utterances without a text, and how they get one."""
    for name, split in splits.items():
        if split.num_without_text:
            folder = out.join(name)
            seconds = describe_duration(max(0.0, split.seconds_in - split.seconds_kept))
            utterances = describe_number(split.num_without_text, "utterance")
            yield f"note: {folder}: {utterances} without a text; {seconds} of silence or rejected; to get texts:"
            yield f"    whisper-shard score MODEL {folder} --write-columns NAME"
            yield f"    whisper-shard filter {folder} VIEW --relabel NAME"


def describe_estimate(found: "Estimate") -> Iterator[str]:
    """Yield lines about what a run would do, with each of the first rows that would be rejected."""
    yield from (f"note: {note}" for note in found.notes)
    rows = describe_number(found.num_rows, "row")
    yield f"{rows}: {_describe_sizes(found.splits)}; {describe_number(found.shard_rows, 'row')} per shard"
    sizes = ", ".join(f"{describe_bytes(size)} as {codec}" for codec, size in found.num_bytes.items())
    kept, number = describe_duration(found.hours * 3600), describe_number(len(found.sampled), "recording")
    yield f"about {kept} will be kept: {sizes} (estimated from {number} at random)"
    rejections = [probe.rejection for probe in found.first if probe.rejection]
    num_kept = len(found.first) - len(rejections)
    yield f"of the first {describe_number(len(found.first), 'recording')}, {num_kept} kept, {len(rejections)} rejected"
    for rejection in rejections:
        yield f"  row {rejection.row}, {rejection.source}: {rejection.reason}: {rejection.detail}"
    if any(rejection.reason == "missing_file" for rejection in rejections):
        yield f"  relative paths are relative to {found.folder}"


COMMAND = Command(
    config=PrepareConfig,
    positionals={
        "corpus": "CSV, JSON, Parquet or folder with audio paths and transcripts, local or a URL; see docs/corpora.md",
        "out": "output folder, local or a URL; the same command again resumes",
    },
    run=run_prepare,
)
