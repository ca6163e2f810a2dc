"""The global batch of a step: the rows of all ranks, their labels and windows."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from whisper_shard.model.labels import LabelRow
from whisper_shard.stream.batch import Batch

NO_LABELS = LabelRow(decoder_input_ids=(), labels=())


@dataclass(frozen=True, slots=True, kw_only=True)
class Flags:
    """What one rank wants all to do after a step."""

    stop: int = 0
    """Number of the signal that asks to stop; 0: none."""
    save: bool = False
    """Whether it is time for a checkpoint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """This rank's part of a step, and what all ranks agree on."""

    batch: Batch
    """The rank's rows."""
    labels: Sequence[LabelRow]
    """One a row."""
    windows: NDArray[np.int64]
    """Window of each row in samples; 0: the row is left out."""
    num_tokens: int
    """Tokens in the labels of all ranks."""
    num_utterances: int
    """Rows of all ranks."""
    num_samples: int
    """Real samples of all ranks."""
    padded_samples: int
    """Samples of the windows of all ranks."""
    flags: Flags
    """What any rank asked for."""
    dropped: Sequence[str] = ()
    """First keys of this rank's packed windows whose texts are too long for the decoder: not learned from."""
    num_dropped: int = 0
    """Such windows of all ranks."""
