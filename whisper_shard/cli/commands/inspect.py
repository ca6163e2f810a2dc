"""The command `inspect`, and the lines it prints."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from whisper_shard.cli.command import DATASET, Command
from whisper_shard.cli.console import say
from whisper_shard.config.tools import InspectConfig
from whisper_shard.errors import ConfigError
from whisper_shard.report.quantities import describe_bytes, describe_counts, describe_duration, describe_number
from whisper_shard.storage.location import local_path

if TYPE_CHECKING:
    from whisper_shard.dataset.summary import DatasetOverview, UtteranceView

BAR_CHARS = 40
"""Length of the longest bar of a histogram."""


def run_inspect(config: InspectConfig, *, dataset: str) -> int:
    """Show what a dataset holds, or one utterance of it."""
    from whisper_shard.dataset.summary import inspect_dataset, inspect_utterance, write_wav

    if config.wav and not config.key:
        raise ConfigError("--wav writes one utterance: name it with --key")
    if not config.key:
        for line in describe_overview(inspect_dataset(dataset)):
            say(line)
        return 0
    view = inspect_utterance(dataset, config.key)
    for line in describe_utterance(view):
        say(line)
    if config.wav:
        write_wav(view, local_path(config.wav, what="--wav"))
        say(f"written to {config.wav}")
    return 0


def describe_overview(overview: "DatasetOverview") -> Iterator[str]:
    """Yield the lines about a dataset."""
    yield (
        f"{overview.location}: {describe_number(overview.num_utterances, 'utterance')}, "
        f"{describe_duration(overview.hours * 3600)}, {overview.num_chars:,} characters; "
        f"{describe_number(overview.num_shards, 'shard')} of {overview.codec}, "
        f"{describe_bytes(overview.num_bytes)}"
    )
    if overview.view:
        yield f"a view of {overview.view.dataset}, where {' and '.join(overview.view.where)}"
        if overview.view.relabeled_by:
            yield f"texts: hypotheses of the columns {overview.view.relabeled_by}, not those in the shards"
    for info, is_current in overview.columns:
        state = "" if is_current else "; STALE: the dataset was changed since, score again"
        yield f"columns {info.name}: {info.num_utterances:,} utterances scored by {info.model}{state}"
    quantiles = ", ".join(f"{name} {seconds:.2f}" for name, seconds in overview.seconds_quantiles.items())
    yield f"seconds: {quantiles or 'none'}"
    highest = max((count for _, _, count in overview.seconds_histogram), default=0)
    for start, end, count in overview.seconds_histogram:
        bar = "#" * math.ceil(BAR_CHARS * count / highest)
        yield f"  {start:>4.1f}-{end:<4.1f} {bar} {count:,}"
    for name in ("languages", "speakers"):
        counts = getattr(overview, name)
        yield f"{name}: {describe_counts(counts) or 'not given'}"
    if overview.view:
        yield from (f"dropped by {clause}: {count:,}" for clause, count in overview.view.dropped.items())
    else:
        yield f"rejected: {describe_counts(overview.rejects) or 'none'}"


def describe_utterance(view: "UtteranceView") -> Iterator[str]:
    """Yield the lines about one utterance."""
    yield f"{view.key}: {view.text!r}"
    yield f"{view.seconds:.3f} s, peak {view.peak_dbfs:.1f} dBFS, RMS {view.rms_dbfs:.1f} dBFS"
    yield f"{view.shard}, {view.audio_bytes:,} bytes at {view.audio_offset:,}"
    for name, value in view.record.items():
        yield f"  {name}: {value}"


COMMAND = Command(config=InspectConfig, positionals=DATASET, run=run_inspect)
