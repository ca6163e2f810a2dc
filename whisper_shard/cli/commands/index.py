"""The command `index`, and the lines it prints."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from whisper_shard.cli.command import Command
from whisper_shard.cli.commands.prepare import describe_progress
from whisper_shard.cli.console import Progress, say
from whisper_shard.config.index import IndexConfig
from whisper_shard.report.quantities import describe_bytes, describe_counts, describe_duration, describe_number
from whisper_shard.utterance import SAMPLE_RATE

if TYPE_CHECKING:
    from whisper_shard.tars.assemble import IndexTotals
    from whisper_shard.tars.run import TarsFound

_TEXTS = {
    "members": "txt and json members",
    "nemo": "the lines of --manifest",
    "shar": "the cuts of Lhotse Shar beside them",
}


def run_index(config: IndexConfig, *, tars: str, out: str) -> int:
    """Index tars, or resume."""
    from whisper_shard.prepare import events
    from whisper_shard.tars import run

    with Progress("indexing") as progress:
        for event in run.index_tars(tars, Path(out), config):
            match event:
                case run.TarsFound():
                    progress.say(describe_tars(event, config))
                case run.TarsRead():
                    progress.update(event.num_tars, event.num_tars_total, "tars read")
                case events.Progress():
                    progress.update(event.num_rows_done, event.num_rows, describe_progress(event))
                case events.Note():
                    progress.say(f"note: {event.message}")
                case run.IndexDone():
                    done = event
    for line in describe_index(out, done.totals):
        say(line)
    say(f"done in {describe_duration(done.seconds)}; `whisper-shard bench {out}` measures how fast it can be read")
    return 0


def describe_tars(found: "TarsFound", config: IndexConfig) -> str:
    """Return a line about the tars, and the settings that decide what is made of them."""
    return (
        f"{describe_number(found.num_tars, 'tar')}, {describe_bytes(found.num_bytes)}; texts: {_TEXTS[found.texts]}, "
        f"--text-style {config.text_style}; npy members are taken for {config.npy_sample_rate} Hz; "
        f"{describe_number(found.jobs, 'worker')}"
    )


def describe_index(out: str, totals: "IndexTotals") -> Iterator[str]:
    """Yield the lines about an index that was just made."""
    reasons = f": {describe_counts(totals.rejects)}" if totals.rejects else ""
    yield (
        f"{out}: {describe_number(totals.num_utterances, 'utterance')}, "
        f"{describe_duration(totals.num_samples / SAMPLE_RATE)}; {totals.rejects.total():,} of {totals.num_rows:,} "
        f"rejected{reasons}"
    )
    yield f"audio: {describe_counts(totals.suffixes)}"
    if totals.unread:
        yield f"note: members that are not read, by suffix: {describe_counts(totals.unread)}"
    yield (
        "note: audio is neither trimmed nor normalized, and is decoded and resampled anew in each epoch; the tars are "
        "not sorted by length, so reads are shorter. `prepare` does all of that once"
    )


COMMAND = Command(
    config=IndexConfig,
    positionals={
        "tars": "tars that others wrote: a tar, a folder, or a pattern in quotes such as 'data/{0000..0127}.tar'",
        "out": "folder for the index; the same command again resumes",
    },
    run=run_index,
)
