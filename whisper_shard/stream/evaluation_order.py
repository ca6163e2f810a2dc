"""The order of evaluation: every utterance once, shortest first."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from whisper_shard.keyed_random import draw_permutation
from whisper_shard.stream.units import Ids, pad_front

ALL_STEPS = slice(None)
"""All batches of an evaluation."""
_READ_TOGETHER = 4  # batches that are read together: what lies next to each other in a shard is read at once


class SortedPlan:
    """The order of evaluation: every utterance once, shortest first."""

    def __init__(
        self, num_samples: NDArray[np.int32], *, batch_size: int, limit: int = 0, steps: slice = ALL_STEPS
    ) -> None:
        """Sort.

        Args:
            num_samples: Length of each utterance.
            batch_size: Utterances a batch, over all ranks.
            limit: Number of utterances, the first of a shuffle that is always the same; 0: all.
            steps: Only these batches, from the shortest utterances on.
        """
        chosen = draw_permutation(len(num_samples), "evaluation")[: limit or None]
        in_order = chosen[np.lexsort((chosen, num_samples[chosen]))].astype(np.int32)
        first, last, _ = steps.indices(-(-len(in_order) // batch_size))
        self._ids = in_order[first * batch_size : last * batch_size]
        self._batch_size = batch_size

    @property
    def steps(self) -> int:
        """Number of batches."""
        return -(-len(self._ids) // self._batch_size)

    def units_from(self, epoch: int, step: int) -> Iterator[Ids]:  # noqa: ARG002 - every epoch is alike
        """Yield all utterances from a batch on."""
        yield self._ids[step * self._batch_size :]

    def batch_rows(self, epoch: int, step: int, *, world: int) -> int:  # noqa: ARG002 - every epoch and step is alike
        """Return the rows of a batch on each rank, padding included."""
        return self._batch_size // world

    def part(self, epoch: int, step: int, *, rank: int, world: int) -> Ids:  # noqa: ARG002 - every epoch is alike
        """Return one rank's utterances of a batch, shortest first; -1 is padding."""
        ids = self._ids[step * self._batch_size : (step + 1) * self._batch_size]
        return pad_front(ids, self._batch_size)[rank::world]

    def read_together(self, epoch: int, step: int) -> list[int]:  # noqa: ARG002 - every epoch is alike
        """Return the steps, in order, whose utterances are read together with those of a step."""
        first = step - step % _READ_TOGETHER
        return list(range(first, min(first + _READ_TOGETHER, self.steps)))
