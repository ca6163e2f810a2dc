"""The command `bench`, and the lines it prints."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING

from whisper_shard.cli.command import DATASET, Command
from whisper_shard.cli.console import Progress, say
from whisper_shard.config.tools import BenchConfig
from whisper_shard.report.quantities import describe_duration
from whisper_shard.storage.location import local_path, parse_location

if TYPE_CHECKING:
    from whisper_shard.bench.report import BenchReport


def run_bench(config: BenchConfig, *, dataset: str) -> int:
    """Measure the loader stage by stage, print what limits it, and write bench.json and bench.html."""
    from whisper_shard.bench.page import write_bench_page
    from whisper_shard.storage.atomic import write_json

    is_local = parse_location(dataset).is_local
    folder = local_path(config.out or (dataset if is_local else "."), what="--out")
    report = _measure(config, dataset)
    for line in describe_bench(report):
        say(line)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "bench.json", report.to_json())
    write_bench_page(report, folder / "bench.html")
    say(f"see {folder / 'bench.html'} and {folder / 'bench.json'}")
    return 0


def _measure(config: BenchConfig, dataset: str) -> "BenchReport":
    from whisper_shard.bench.loader import bench_dataset
    from whisper_shard.bench.train_step import DeviceLogMel, measure_step_seconds
    from whisper_shard.dataset.index import open_dataset

    data = [open_dataset(path) for path in (dataset, *config.stream.mix)]
    with Progress("measuring") as progress:
        numbers = count(1)

        def show(what: str) -> None:
            progress.update(next(numbers), None, what)

        if config.model:
            show(f"a training step of {config.model}")
            config = replace(config, step_ms=1000 * measure_step_seconds(data[0], config))
        return bench_dataset(data, config, show, log_mel=DeviceLogMel())


def describe_bench(report: "BenchReport") -> Iterator[str]:
    """Yield the lines of a report: the rates, the cost of each stage, and the recommended setting."""
    from whisper_shard.bench.page import describe_epoch

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
        f"{'reads':>8} {'MB read':>9} headroom"
    )
    for rate in report.rates:
        headroom = "" if rate.headroom is None else f"{rate.headroom:.1f}x"
        yield (
            f"{rate.workers:<12} {rate.utterances_per_second:>16,.0f} {rate.audio_hours_per_second:>14.2f} "
            f"{rate.mb_per_second:>8,.0f} {rate.wait_p50_seconds * 1e3:>7.1f} ms "
            f"{rate.wait_p99_seconds * 1e3:>7.1f} ms {rate.reads:>8,} {rate.mb_fetched:>9,.0f} {headroom}".rstrip()
        )
    yield f"an epoch from object storage, by one rank: {describe_epoch(report.epoch)}"
    yield report.advice


COMMAND = Command(
    config=BenchConfig,
    positionals=DATASET,
    run=run_bench,
)
