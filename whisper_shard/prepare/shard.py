"""One shard is one task: a worker decodes, sorts, writes and commits it alone.

The utterances of a shard are stored by length, so that those which a training step reads together, being of about the
same length, lie together. A worker therefore holds a whole shard in memory, already encoded, before it writes it.
"""

from dataclasses import dataclass

from whisper_shard.prepare.encode import by_length, write_tar
from whisper_shard.prepare.receipts import (
    ShardCounts,
    count_receipt,
    index_columns,
    make_receipt,
    write_receipt,
)
from whisper_shard.prepare.rows import finish_rows
from whisper_shard.prepare.task import ShardTask


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardResult:
    """A shard that is committed."""

    number: int
    """Number of the task."""
    counts: ShardCounts
    """Its sums."""


def write_shard(task: ShardTask) -> ShardResult:
    """Prepare the rows of a shard, commit the tar, then its receipt.

    Raises:
        EnvironmentFault: The machine failed: disk full, I/O error, network.
        StateError: Another process writes into the same bucket.
        MemoryError: The shard and a recording together do not fit into the memory of a worker.
    """
    output = task.shard.split.output
    if task.is_retry:  # its worker may have died right after it had committed the shard
        output.remove(task.shard.receipt)
    finished = {row.row: row for row in (*task.finished, *finish_rows(task))}
    rows = [finished[row] for row in task.shard.read_rows()["row"].to_pylist()]
    encoded = sorted((utterance for row in rows for utterance in row.utterances), key=by_length)
    info, index_rows = write_tar(task.shard, encoded, suffix=task.config.codec)
    if encoded:
        output.upload(task.shard.tar)
    # The tar is safely in its place before its receipt exists. A kill in between costs this shard's work, nothing else.
    times = [utterance.times for utterance in encoded] if task.config.segment != "none" else []
    receipt = make_receipt(
        task.shard,
        info,
        config=task.config,
        outcomes=[outcome for row in rows for outcome in row.outcomes],
        index=index_columns(index_rows, [utterance.quality for utterance in encoded], times),
        audio_hashes=[utterance.audio_hash for utterance in encoded],
    )
    write_receipt(task.shard, receipt)
    if output.remote:
        task.shard.tar.unlink(missing_ok=True)
    return ShardResult(number=task.number, counts=count_receipt(receipt, task.corpus))
