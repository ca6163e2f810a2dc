"""The command `filter`, and the lines it prints."""

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from whisper_shard.cli.command import Command
from whisper_shard.cli.console import say
from whisper_shard.config.filter import FilterConfig
from whisper_shard.report.quantities import describe_duration
from whisper_shard.utterance import SAMPLE_RATE

if TYPE_CHECKING:
    from whisper_shard.dataset.views import ViewMade


def run_filter(config: FilterConfig, *, dataset: str, view: str) -> int:
    """Make a view, and say what it leaves out."""
    from whisper_shard.dataset.views import filter_dataset

    begin = time.monotonic()
    for made in filter_dataset(dataset, view, config.where, relabel=config.relabel):
        for line in describe_view(made):
            say(line)
    say(f"done in {describe_duration(time.monotonic() - begin)}; no audio was copied: the dataset must stay as it is")
    return 0


def describe_view(made: "ViewMade") -> Iterator[str]:
    """Yield the lines about a view."""
    length, before = (describe_duration(n / SAMPLE_RATE) for n in (made.num_samples, made.num_samples_before))
    yield (
        f"{made.view}: {made.num_utterances:,} of {made.num_utterances_before:,} utterances, {length} of {before}, "
        f"of {made.dataset}"
    )
    for clause, count in made.dropped.items():
        yield f"  dropped by {clause}: {count:,}"


COMMAND = Command(
    config=FilterConfig,
    positionals={
        "dataset": "a prepared or indexed dataset, a view, or a folder with train and eval",
        "view": "folder or URL for the view; an older view there is replaced",
    },
    run=run_filter,
)
