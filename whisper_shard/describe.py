"""Events and reports as lines of text: pure functions from what the packages report to what a person reads."""

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from whisper_shard.train.events import WINDOW_NAMES

if TYPE_CHECKING:
    from whisper_shard.formats.overview import DatasetOverview, UtteranceView
    from whisper_shard.prepare import events as preparing
    from whisper_shard.prepare.corpus import PlanReport
    from whisper_shard.stream.bench import BenchReport
    from whisper_shard.train import events as training
    from whisper_shard.train.runfolder import TrainReport
    from whisper_shard.train.scorecard import ScoreReport

BAR_CHARS = 40
"""Length of the longest bar of a histogram."""


def describe_duration(seconds: float) -> str:
    """Write a duration in the unit that suits it."""
    if seconds >= 3600:
        return f"{seconds / 3600:,.1f} h"
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.1f} s"


def describe_bytes(num_bytes: float) -> str:
    """Write a size in powers of 1,000."""
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:,.{0 if unit == 'B' else 1}f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:,.1f} TB"


def describe_counts(counts: Mapping[str, int], *, most: int = 8) -> str:
    """Write counts as ``name 12, other 3``, the first ``most`` of them."""
    shown = ", ".join(f"{name} {count:,}" for name, count in list(counts.items())[:most])
    return shown + (f", and {len(counts) - most} more" if len(counts) > most else "")


def describe_number(number: int, noun: str) -> str:
    """Write a number with its noun, in the plural where there is not one."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


# -- prepare


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


# -- inspect


def describe_overview(overview: "DatasetOverview") -> Iterator[str]:
    """Say what a dataset holds."""
    yield (
        f"{overview.folder}: {describe_number(overview.num_utterances, 'utterance')}, "
        f"{describe_duration(overview.hours * 3600)}, {overview.num_chars:,} characters; "
        f"{describe_number(overview.num_shards, 'shard')} of {overview.codec}, "
        f"{describe_bytes(overview.num_bytes)}"
    )
    quantiles = ", ".join(f"{name} {seconds:.2f}" for name, seconds in overview.seconds_quantiles.items())
    yield f"seconds: {quantiles or 'none'}"
    highest = max((count for _, _, count in overview.seconds_histogram), default=0)
    for start, end, count in overview.seconds_histogram:
        bar = "#" * math.ceil(BAR_CHARS * count / highest)
        yield f"  {start:>4.1f}-{end:<4.1f} {bar} {count:,}"
    for name in ("languages", "speakers"):
        counts = getattr(overview, name)
        yield f"{name}: {describe_counts(counts) or 'not given'}"
    yield f"rejected: {describe_counts(overview.rejects) or 'none'}"


def describe_utterance(view: "UtteranceView") -> Iterator[str]:
    """Say what is known of one utterance."""
    yield f"{view.key}: {view.text!r}"
    yield f"{view.seconds:.3f} s, peak {view.peak_dbfs:.1f} dBFS, RMS {view.rms_dbfs:.1f} dBFS"
    yield f"{view.shard}, {view.audio_bytes:,} bytes at {view.audio_offset:,}"
    for name, value in view.record.items():
        yield f"  {name}: {value}"


# -- bench


def describe_bench(report: "BenchReport") -> Iterator[str]:
    """Say how fast batches come, what each stage costs, and what to do."""
    step = "" if report.step_seconds is None else f"; a training step takes {report.step_seconds * 1000:.0f} ms"
    length = describe_duration(report.hours * 3600)
    yield (
        f"{report.num_utterances:,} utterances, {length}; {report.batch_utterances:.1f} "
        f"per batch, {report.padding_share:.1%} padding{step}"
    )
    yield f"{'stage':<12} {'us/utterance':>16}"
    for stage in report.stages:
        yield f"{stage.name:<12} {stage.seconds * 1e6:>16,.0f}"
    yield (
        f"{'processes':<12} {'utterances/s':>16} {'audio-hours/s':>14} {'MB/s':>8} {'wait p50':>10} {'wait p99':>10} "
        "headroom"
    )
    for rate in report.rates:
        headroom = "" if rate.headroom is None else f"{rate.headroom:.1f}x"
        yield (
            f"{rate.workers:<12} {rate.utterances_per_second:>16,.0f} {rate.audio_hours_per_second:>14.2f} "
            f"{rate.mb_per_second:>8,.0f} {rate.wait_p50_seconds * 1e3:>7.1f} ms "
            f"{rate.wait_p99_seconds * 1e3:>7.1f} ms {headroom}".rstrip()
        )
    yield report.advice


# -- train


def describe_start(event: "training.Started") -> str:
    """Say what is about to be trained, and where."""
    ranks = f", {event.ranks} ranks" if event.ranks > 1 else ""
    return (
        f"{event.train_utterances:,} utterances, {event.total_steps:,} steps ({event.steps_per_epoch:,} per epoch), "
        f"{event.num_parameters / 1e6:.1f} M trainable parameters, {event.precision} on {event.device}{ranks}"
    )


def describe_steps(event: "training.Stepped") -> str:
    """Say how training goes."""
    return (
        f"steps; loss {event.loss:.3f}, lr {event.lr:.1e}, {event.utterances_per_second:.1f} utterances/s, "
        f"{event.audio_seconds_per_second:.0f} x real time, {event.data_wait_share:.0%} waiting for data"
    )


def describe_evaluation(event: "training.Evaluated") -> str:
    """Say what an evaluation found."""
    windows = WINDOW_NAMES[event.window]
    capped = f", {event.cap_hits} cut off at the token limit" if event.cap_hits else ""
    best = ", the best so far" if event.is_best else ""
    took = describe_duration(event.seconds)
    return f"step {event.step}: WER {event.wer:.1%}, CER {event.cer:.1%} in {windows}, {took}{capped}{best}"


def describe_delivery(event: "training.Delivered") -> str:
    """Say whether an epoch was exact."""
    proof = "each exactly once" if event.is_complete else f"NOT each of {event.planned:,} exactly once"
    skipped = f" ({event.skipped:,} damaged ones skipped)" if event.skipped else ""
    return f"epoch {event.epoch}: {event.utterances:,} utterances delivered, {proof}{skipped}"


def describe_run(report: "TrainReport") -> Iterator[str]:
    """Say what came of a run."""
    low, high = report.wer_interval
    yield (
        f"WER {report.wer_before:.1%} before, {report.wer:.2%} after, in 30 s windows (95 % interval {low:.1%} to "
        f"{high:.1%}); {report.wer_short:.2%} in short windows"
    )
    if len(report.candidates) > 1:
        tried = ", ".join(f"{name} {wer:.2%}" for name, wer in report.candidates.items())
        yield f"weights tried at the end: {tried}; kept: {report.chosen}"
    stopped = "stopped early" if report.stopped == "early" else "ended"
    yield f"{stopped} after {report.steps} steps, best at step {report.best_step}; {describe_duration(report.seconds)}"


# -- score


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
