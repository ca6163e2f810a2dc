"""The command `inspect`, and the lines it prints."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from whisper_shard.cli.command import DATASET, Command
from whisper_shard.cli.console import Block, console, make_table, say, show
from whisper_shard.config.tools import InspectConfig
from whisper_shard.errors import ConfigError
from whisper_shard.report.quantities import describe_bytes, describe_counts, describe_duration, describe_number
from whisper_shard.storage.location import local_path
from whisper_shard.utterance import SAMPLE_RATE

if TYPE_CHECKING:
    from whisper_shard.dataset.statistics import NameCounts, Statistics
    from whisper_shard.dataset.summary import DatasetOverview, UtteranceView

BAR_CHARS = 40
"""Length of the longest bar of a histogram, where the terminal is wide enough."""
MAX_BARS = 20
"""Bars of a histogram at most."""
MAX_NAMES_SHOWN = 8
"""Languages, and speakers, that are shown at most."""


def run_inspect(config: InspectConfig, *, dataset: str) -> int:
    """Show what a dataset holds or one utterance of it, or serve a page of all."""
    from whisper_shard.dataset.summary import inspect_dataset, inspect_utterance, write_wav

    if config.browse:
        return _browse(config, dataset=dataset)
    if config.wav and not config.key:
        raise ConfigError("--wav writes one utterance: name it with --key")
    if not config.key:
        for part in describe_overview(inspect_dataset(dataset), width=console.width):
            show(part)
        return 0
    view = inspect_utterance(dataset, config.key)
    for line in describe_utterance(view):
        say(line)
    if config.wav:
        write_wav(view, local_path(config.wav, what="--wav"))
        say(f"written to {config.wav}")
    return 0


def _browse(config: InspectConfig, *, dataset: str) -> int:
    """Serve the page until Ctrl-C."""
    from whisper_shard.browse.server import open_server

    if config.key or config.wav:
        raise ConfigError("--browse shows all utterances: leave out --key and --wav")
    with open_server(dataset, port=config.port) as server:
        say(f"{server.dataset.location}: {server.url} (on this machine only; Ctrl-C ends it)")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            say("ended")
    return 0


def describe_overview(overview: "DatasetOverview", *, width: int) -> Iterator[Block]:
    """Yield the lines and tables about a dataset.

    Args:
        overview: What is known of it.
        width: Columns of the terminal.
    """
    found = overview.statistics
    yield (
        f"{overview.location}: {describe_number(overview.num_utterances, 'utterance')}, "
        f"{describe_duration(overview.hours * 3600)}, {found.num_chars:,} characters; "
        f"{describe_number(overview.num_shards, 'shard')} of {overview.codec}, "
        f"{describe_bytes(overview.num_bytes)}"
    )
    if overview.view:
        yield f"a view of {overview.view.dataset}, where {' and '.join(overview.view.where)}"
        if overview.view.relabeled_by:
            yield f"texts: hypotheses of the columns {overview.view.relabeled_by}, not those in the shards"
        yield from (f"dropped by {clause}: {count:,}" for clause, count in overview.view.dropped.items())
    else:
        yield f"rejected: {describe_counts(overview.rejects) or 'none'}"
    for info, is_current in overview.columns:
        state = "" if is_current else "; STALE: the dataset was changed since, score again"
        yield f"columns {info.name}: {describe_number(info.num_utterances, 'utterance')} scored by {info.model}{state}"
    quantiles = ", ".join(f"{name} {seconds:.2f}" for name, seconds in overview.seconds_quantiles.items())
    yield f"seconds: {quantiles or 'none'}"
    yield from _describe_suspicious(found)
    if found.num_utterances:
        yield _table_of_extremes(found)
    yield from _describe_histograms(found, width=width)
    yield from _describe_names("language", found.languages)
    yield from _describe_names("speaker", found.speakers)


def _describe_suspicious(found: "Statistics") -> Iterator[Block]:
    rows = [(ranking.title, f"{ranked.num_utterances:,}", ranking.condition) for ranking, ranked in found.suspicious()]
    if rows:
        yield make_table("\nSuspicious", ("what", "utterances", "condition"), rows, numbers={"utterances"})


def _table_of_extremes(found: "Statistics") -> Block:
    from whisper_shard.dataset.statistics import EXTREMES

    rows = [
        (
            ranking.title if number == 0 else "",
            f"{row['num_samples'] / SAMPLE_RATE:.2f}",
            f"{row['chars_per_second']:.1f}",
            row["key"],
            row["text"],
        )
        for ranking in (*(ranking for ranking, _ in found.suspicious()), *EXTREMES)
        for number, row in enumerate(found.rankings[ranking].examples)
    ]
    title = "\nUtterances to listen to: --browse, or --key KEY --wav FILE"
    return make_table(title, ("what", "seconds", "chars/s", "key", "text"), rows, numbers={"seconds", "chars/s"})


def _describe_histograms(found: "Statistics", *, width: int) -> Iterator[str]:
    from whisper_shard.report.charts import list_columns

    for measure, counts in found.histograms.items():
        columns = list_columns(counts, measure.bin_width, max_columns=MAX_BARS, first_bin=measure.first_bin)
        if not columns:
            continue
        yield f"\n{measure.title} ({measure.unit})"
        labels = [f"{start:,g} to {end:,g}" for start, end, _ in columns]
        room, highest = max(map(len, labels)), max(count for *_, count in columns)
        longest = max(min(BAR_CHARS, width - room - len(f"{highest:,}") - 4), 1)
        for label, (*_, count) in zip(labels, columns, strict=True):
            bar = "#" * math.ceil(longest * count / highest)
            yield f"  {label:>{room}} {bar}{' ' if bar else ''}{count:,}"


def _describe_names(name: str, counts: "NameCounts") -> Iterator[Block]:
    """Yield the largest languages or speakers."""
    items = counts.largest_first()
    if not items:
        yield f"\n{name}s: not given"
        return
    rows = [
        (each, f"{number:,}", describe_duration(samples / SAMPLE_RATE))
        for each, (number, samples) in list(items.items())[:MAX_NAMES_SHOWN]
    ]
    columns = (name, "utterances", "audio")
    yield make_table(f"\n{describe_number(len(items), name)}", columns, rows, numbers={*columns[1:]})


def describe_utterance(view: "UtteranceView") -> Iterator[str]:
    """Yield the lines about one utterance."""
    yield f"{view.key}: {view.text!r}"
    yield f"{view.seconds:.3f} s, peak {view.peak_dbfs:.1f} dBFS, RMS {view.rms_dbfs:.1f} dBFS"
    yield f"{view.shard}, {view.audio_bytes:,} bytes at {view.audio_offset:,}"
    for name, value in view.record.items():
        yield f"  {name}: {value}"


COMMAND = Command(config=InspectConfig, positionals=DATASET, run=run_inspect)
