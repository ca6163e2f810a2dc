"""With ``--duplicates drop``, utterances that repeat another one leave their shards: tar and receipt are written anew.

What stays is copied from tar to tar, so nothing is decoded again. A receipt keeps the hashes of what was dropped: if
the utterance that stayed for one of them is gone later, since its recording has changed, the shard is prepared again.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import compress
from typing import Any
from zlib import crc32

from whisper_shard.dataset.description import DATASET_NAME
from whisper_shard.dataset.schema import QUALITY_SCHEMA, TIMES_SCHEMA
from whisper_shard.errors import StateError
from whisper_shard.prepare.clips import read_range
from whisper_shard.prepare.duplicates import Duplicates, Repeat
from whisper_shard.prepare.encode import EncodedUtterance, write_tar
from whisper_shard.prepare.plan import ShardPlan, SplitPlan
from whisper_shard.prepare.receipts import DUPLICATE, Receipt, index_columns, read_receipt, write_receipt
from whisper_shard.report.quantities import describe_number
from whisper_shard.storage.location import parse_location
from whisper_shard.utterance import SAMPLE_RATE, Quality

Details = Mapping[int, str]
"""What is dropped of a shard, by its place in the index, and why."""


def drop_duplicates(duplicates: Duplicates, *, codec: str) -> None:
    """Write the shards with repeated utterances anew, without these.

    Args:
        duplicates: What was found; all shards are as they were then.
        codec: Suffix of the audio members.

    Raises:
        StateError: A tar is damaged.
        EnvironmentFault: The disk is full, failing or not writable; or the network fails.
    """
    found = _describe_repeats(duplicates.repeats)
    for split in {shard.split.name: shard.split for shard in found}.values():
        split.output.remove(split.folder / DATASET_NAME)  # a dataset whose shards change must not look finished
    for shard, details in found.items():
        _drop_from_shard(shard, details, codec=codec)


def describe_dropped(splits: Sequence[SplitPlan]) -> str:
    """Return a line about what was dropped, by this run or an earlier one."""
    counts = [(len(receipt.audio_hashes), len(receipt.dropped_hashes)) for _, receipt in _read_receipts(splits)]
    kept, dropped = map(sum, zip(*counts, strict=True))
    return (
        f"audio compared by hash: no two of {describe_number(kept, 'utterance')} have the same; {dropped:,} "
        f"{'was' if dropped == 1 else 'were'} dropped"
    )


def find_orphans(splits: Sequence[SplitPlan]) -> list[ShardPlan]:
    """Return the shards from which an utterance was dropped that no other one repeats any more."""
    receipts = [(shard, receipt) for shard, receipt in _read_receipts(splits) if receipt.dropped_hashes]
    dropped = {found for _, receipt in receipts for found in receipt.dropped_hashes}
    if not dropped:
        return []
    kept = {found for _, receipt in _read_receipts(splits) for found in receipt.audio_hashes if found in dropped}
    return [shard for shard, receipt in receipts if not kept.issuperset(receipt.dropped_hashes)]


def _read_receipts(splits: Sequence[SplitPlan]) -> Iterator[tuple[ShardPlan, Receipt]]:
    for split in splits:
        for shard in split.shards():
            if (receipt := read_receipt(shard.receipt)) is not None:
                yield shard, receipt


def _describe_repeats(repeats: Iterable[Repeat]) -> dict[ShardPlan, Details]:
    """Return what is dropped of each shard, and why; reads the receipt of each earlier utterance once."""
    by_first = defaultdict[ShardPlan, list[Repeat]](list)
    for repeat in repeats:
        by_first[repeat.first_shard].append(repeat)
    found = defaultdict[ShardPlan, dict[int, str]](dict)
    for first, group in by_first.items():
        receipt = read_receipt(first.receipt)
        for repeat in group:
            name = receipt.index["key"][repeat.first_position] if receipt else "another one"
            found[repeat.shard][repeat.position] = f"has the same samples as {name} of {first.split.name}"
    return dict(found)


def _drop_from_shard(shard: ShardPlan, details: Details, *, codec: str) -> None:
    output, receipt = shard.split.output, read_receipt(shard.receipt)
    if receipt is None:
        raise StateError(f"{shard.receipt}: receipt is missing; run the same command again")
    is_kept = [position not in details for position in range(receipt.info.num_utterances)]
    kept = [_read_utterance(shard, receipt, position) for position in compress(range(len(is_kept)), is_kept)]
    # Without its receipt, the shard is prepared again if this is killed in between.
    output.remove(shard.receipt)
    info, index_rows = write_tar(shard, kept, suffix=codec)
    if kept:
        output.upload(shard.tar)
    has_times = all(name in receipt.index for name in TIMES_SCHEMA.names)
    times = [utterance.times for utterance in kept] if has_times else []
    changed = replace(
        receipt,
        info=info,
        rows=_change_outcomes(receipt, details),
        index=index_columns(index_rows, [utterance.quality for utterance in kept], times),
        audio_hashes=[utterance.audio_hash for utterance in kept],
        dropped_hashes=[*receipt.dropped_hashes, *(receipt.audio_hashes[position] for position in sorted(details))],
    )
    write_receipt(shard, changed)
    if output.remote:
        shard.tar.unlink(missing_ok=True)


def _read_utterance(shard: ShardPlan, receipt: Receipt, position: int) -> EncodedUtterance:
    """Return an utterance of a shard as it was written.

    Raises:
        StateError: The tar is damaged.
        EnvironmentFault: The network fails.
    """
    row = {name: values[position] for name, values in receipt.index.items()}
    audio, text = (_read_member(shard, row, kind) for kind in ("audio", "json"))
    record: dict[str, Any] = json.loads(text)
    is_measured = all(name in row for name in QUALITY_SCHEMA.names)
    return EncodedUtterance(
        key=row["key"],
        audio=audio,
        num_samples=row["num_samples"],
        row=record["row"],
        record=record,
        quality=Quality(**{name: row[name] for name in QUALITY_SCHEMA.names}) if is_measured else None,
        audio_hash=receipt.audio_hashes[position],
        times=(row.get("start_seconds"), row.get("end_seconds")),
    )


def _read_member(shard: ShardPlan, row: Mapping[str, Any], kind: str) -> bytes:
    output = shard.split.output
    place = output.remote.locate(shard.tar) if output.remote else parse_location(shard.tar)
    data = read_range(place, row[f"{kind}_offset"], row[f"{kind}_bytes"], output.store)
    if data is None or crc32(data) != row[f"{kind}_crc32"]:
        raise StateError(f"{place}: utterance {row['key']} is damaged; remove this tar and run the same command again")
    return data


def _change_outcomes(receipt: Receipt, details: Details) -> dict[str, list[Any]]:
    """Return the outcomes of the rows, in which what is dropped is rejected."""
    rows = {name: list(values) for name, values in receipt.rows.items()}
    place_of = {row: i for i, row in enumerate(rows["row"]) if rows["num_utterances"][i]}
    for position, detail in sorted(details.items()):
        key, num_samples = receipt.index["key"][position], receipt.index["num_samples"][position]
        place = place_of[int(key.partition("-")[0])]
        if rows["num_utterances"][place] > 1:  # of a recording that was cut: the others stay
            seconds = round(num_samples / SAMPLE_RATE, 3)
            rows["num_utterances"][place] -= 1
            rows["seconds"][place] = round(max(0.0, rows["seconds"][place] - seconds), 3)
            for name, values in rows.items():
                values.append(values[place] if name != "seconds" else seconds)
            place = len(rows["row"]) - 1
        rows["num_utterances"][place], rows["reason"][place], rows["detail"][place] = 0, DUPLICATE, detail
    return rows
