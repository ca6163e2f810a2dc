"""The HTML page of a loader benchmark."""

from collections.abc import Iterator
from pathlib import Path

from whisper_shard.bench.report import BenchReport, EpochReads, LoaderRate, StageTime
from whisper_shard.report.charts import Bars, Value, make_bars
from whisper_shard.report.page import render_page
from whisper_shard.storage.atomic import atomic_file


def write_bench_page(report: BenchReport, path: Path) -> None:
    """Write the page.

    Args:
        report: What was measured.
        path: ``bench.html``; replaced if it exists.

    Raises:
        EnvironmentFault: It cannot be written.
    """
    with atomic_file(path) as file:
        file.write(bench_page(report).encode())


def bench_page(report: BenchReport) -> str:
    """Return the page."""
    needed = report.batch_utterances / report.step_seconds if report.step_seconds else None
    host_stages = [stage for stage in report.stages if stage.where != "device"]
    return render_page(
        "bench.html",
        dataset=report.dataset,
        summary=_summarize(report),
        advice=report.advice,
        rates=list(map(_describe_rate, report.rates)),
        rate_bars=_rate_bars(report, needed),
        need=None if needed is None else f"{needed:,.0f}",
        waits=list(map(_describe_waits, report.rates)),
        reads=list(map(_describe_reads, report.rates)),
        epoch=describe_epoch(report.epoch),
        stages=list(map(_describe_stage, host_stages)),
        stage_bars=make_bars(
            [Value(value=stage.seconds, is_marked=stage.name == report.bounding_stage) for stage in host_stages],
            label="",
            mark="bad",
        ),
        device_notes=list(_describe_device(report)),
        machine=_describe_machine(report),
    )


def _summarize(report: BenchReport) -> str:
    return (
        f"{report.num_utterances:,} utterances, {report.hours:,.2f} hours; {report.batch_utterances:,.0f} utterances "
        f"per step; {report.padding_share:.1%} of the samples of a batch are padding."
    )


def _describe_rate(rate: LoaderRate) -> dict[str, str]:
    return {
        "processes": str(rate.workers),
        "utterances/s": f"{rate.utterances_per_second:,.0f}",
        "audio h/s": f"{rate.audio_hours_per_second:.2f}",
        "MB/s": f"{rate.mb_per_second:,.0f}",
    }


def _rate_bars(report: BenchReport, needed: float | None) -> Bars:
    values = [
        Value(value=rate.utterances_per_second, is_marked=rate.workers == report.recommended_workers)
        for rate in report.rates
    ]
    return make_bars(values, label="", line=needed)


def describe_epoch(epoch: EpochReads) -> str:
    """Return what an epoch takes from object storage, as text."""
    return (
        f"{epoch.requests:,} requests, {epoch.gigabytes:,.2f} GB ({epoch.fetched_over_used:.3f} times the bytes used), "
        f"${epoch.dollars:,.4f} at the given prices"
    )


def _describe_reads(rate: LoaderRate) -> dict[str, str]:
    return {"processes": str(rate.workers), "reads": f"{rate.reads:,}", "MB read": f"{rate.mb_fetched:,.0f}"}


def _describe_waits(rate: LoaderRate) -> dict[str, str]:
    headroom = {} if rate.headroom is None else {"headroom": f"{rate.headroom:.1f} x"}
    return {
        "processes": str(rate.workers),
        "first batch": f"{rate.first_batch_seconds:.2f} s",
        "median": f"{1000 * rate.wait_p50_seconds:.1f} ms",
        "99th percentile": f"{1000 * rate.wait_p99_seconds:.1f} ms",
        **headroom,
    }


def _describe_stage(stage: StageTime) -> dict[str, str]:
    return {"stage": stage.name, "microseconds": f"{1e6 * stage.seconds:,.0f}"}


def _describe_device(report: BenchReport) -> Iterator[str]:
    for stage in report.stages:
        if stage.where == "device":
            yield f"On the device, {stage.name} takes {1e6 * stage.seconds:,.0f} microseconds per utterance."


def _describe_machine(report: BenchReport) -> str:
    facts = report.machine
    cores = f"{facts['cores']} core{'s' * (facts['cores'] != 1)}"
    return f"{cores} of {facts['processor']}, device {facts['device']}, Python {facts['python']}"
