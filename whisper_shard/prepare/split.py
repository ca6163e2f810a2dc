"""What the two sides of the split have in common: speakers and recordings, counted and shown."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from whisper_shard.prepare.order import RowGroups
from whisper_shard.prepare.plan import SplitPlan
from whisper_shard.prepare.spool import Spool

_Sides = dict[str, tuple[NDArray[np.int64], NDArray[np.int64]]]


def describe_split(spools: Mapping[str, Spool], *, asked: float) -> Iterator[str]:
    """Yield lines about the size of the evaluation set, and about speakers and recordings on both sides.

    Args:
        spools: ``train``, and ``eval`` where it has a manifest of its own.
        asked: Share of rows that was asked for, where the set is split off.
    """
    train, evaluation = spools["train"], spools.get("eval")
    is_eval = train.order.ranks < train.order.num_eval
    if evaluation is None:
        if not is_eval.any():
            return
        yield f"{_describe_size(train.order.num_eval, train.num_rows)} (asked for: {asked:.1%})"
    is_comparable = evaluation is None or evaluation.manifest.folder == train.manifest.folder
    sides = {}
    for name in _names(is_comparable, train.groups, *([evaluation.groups] if evaluation else [])):
        values = np.concatenate(getattr(train.groups, name))
        other = np.concatenate(getattr(evaluation.groups, name)) if evaluation else values[is_eval]
        sides[name] = (values if evaluation else values[~is_eval], other)
    hint = "; --split-by speaker keeps them apart" if evaluation is None else ""
    yield from _describe_sides(sides, hint)


def describe_planned_split(splits: Sequence[SplitPlan]) -> list[str]:
    """Return what is compared of the two sides of a finished plan, as lines; empty where there is one side only."""
    if len(splits) < 2:
        return []
    groups = {split.name: _read_groups(split) for split in splits}
    train, evaluation = groups["train"], groups["eval"]
    num_rows = {split.name: split.num_rows for split in splits}
    is_comparable = splits[0].corpus == splits[1].corpus
    sides = {
        name: (np.concatenate(getattr(train, name)), np.concatenate(getattr(evaluation, name)))
        for name in _names(is_comparable, train, evaluation)
    }
    return [_describe_size(num_rows["eval"], sum(num_rows.values())), *_describe_sides(sides)]


def _read_groups(split: SplitPlan) -> RowGroups:
    groups = RowGroups()
    with pa.ipc.open_file(str(split.output.rows(split.name))) as reader:
        for number in range(reader.num_record_batches):
            groups.add(pa.Table.from_batches([reader.get_batch(number)]))
    return groups


def _names(is_comparable: bool, *groups: RowGroups) -> tuple[str, ...]:
    """Return what can be compared.

    Paths below different folders cannot, and embedded recordings have no names that could be relied on; the audio
    itself is compared when it is decoded.
    """
    has_names = is_comparable and not any(group.has_blocks for group in groups)
    return ("speakers", "recordings") if has_names else ("speakers",)


def _describe_size(num_eval: int, num_rows: int) -> str:
    return f"the evaluation set has {num_eval:,} of {num_rows:,} rows, {num_eval / num_rows:.1%}"


def _describe_sides(sides: _Sides, hint: str = "") -> Iterator[str]:
    for name, (left, right) in sides.items():
        train, evaluation = (np.unique(side[side != 0]) for side in (left, right))
        if len(train) and len(evaluation):
            both = len(np.intersect1d(train, evaluation, assume_unique=True))
            advice = hint if both and name == "speakers" else ""
            yield f"{name}: {len(train):,} in train, {len(evaluation):,} in eval, {both:,} in both{advice}"
