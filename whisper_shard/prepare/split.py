"""What the two sides of the split have in common: speakers and recordings, counted and shown."""

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from whisper_shard.prepare.spool import Spool


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
        num_eval, num_rows = train.order.num_eval, train.num_rows
        yield (
            f"the evaluation set has {num_eval:,} of {num_rows:,} rows, {num_eval / num_rows:.1%} "
            f"(asked for: {asked:.1%})"
        )
    sides = {name: _sides(name, train, evaluation, is_eval) for name in ("speakers", "recordings")}
    for name, (left, right) in sides.items():
        if len(left) and len(right):
            both = len(np.intersect1d(left, right, assume_unique=True))
            hint = "; --split-by speaker keeps them apart" if both and name == "speakers" and evaluation is None else ""
            yield f"{name}: {len(left):,} in train, {len(right):,} in eval, {both:,} in both{hint}"


def _sides(
    name: str, train: Spool, evaluation: Spool | None, is_eval: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the hashes of all speakers or recordings of each side, each once."""
    values = np.concatenate(getattr(train.groups, name))
    if evaluation is None:
        sides = values[~is_eval], values[is_eval]
    elif name == "recordings" and evaluation.manifest.folder != train.manifest.folder:
        sides = values[:0], values[:0]  # their paths cannot be compared; the audio itself is, when it is decoded
    else:
        sides = values, np.concatenate(getattr(evaluation.groups, name))
    unique = [np.unique(side[side != 0]) for side in sides]
    return unique[0], unique[1]
