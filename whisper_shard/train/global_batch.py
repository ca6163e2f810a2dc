"""The global batch of a step: the rows of all ranks together, with their labels and windows.

Every rank loads its own rows. Before the forward pass the ranks exchange a few numbers about each row (length, tokens,
hash of the key), from which each computes the same windows and the same divisor of the loss. What a rank wants the
others to do after the step, stop or save, travels with them and costs no exchange of its own.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from whisper_shard.config.train import TrainConfig
from whisper_shard.errors import TrainingError
from whisper_shard.keyed_random import draw_uniform
from whisper_shard.model.labels import Labeler, LabelRow
from whisper_shard.stream.batch import Batch
from whisper_shard.train.ranks import Ranks, gather_rows
from whisper_shard.train.windows import assign_windows
from whisper_shard.utterance import Segment

NO_LABELS = LabelRow(decoder_input_ids=(), labels=())


@dataclass(frozen=True, slots=True, kw_only=True)
class Requests:
    """What ranks ask all of them to do after a step."""

    stop: int = 0
    """Number of the signal that asks to stop; 0: none."""
    save: bool = False
    """Whether it is time for a checkpoint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GlobalBatch:
    """This rank's rows of a step, and the totals over all ranks."""

    local: Batch
    """This rank's rows."""
    labels: Sequence[LabelRow]
    """One for each local row."""
    windows: NDArray[np.int64]
    """Window of each local row in samples; 0: the row is left out."""
    num_tokens: int
    """Tokens in the labels of all ranks."""
    num_utterances: int
    """Rows of all ranks."""
    num_samples: int
    """Real samples of all ranks."""
    padded_samples: int
    """Samples of the windows of all ranks."""
    shortest_window: int
    """Samples of the shortest window of all ranks; 0 where no row is used."""
    requests: Requests
    """The same on all ranks: the highest signal number of any rank, and whether rank 0 wants to save."""
    dropped: Sequence[str] = ()
    """First keys of this rank's packed windows that are left out because their text is too long for the decoder."""
    num_dropped: int = 0
    """Such windows of all ranks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GlobalBatchBuilder:
    """Turns this rank's batch into its part of the global batch."""

    labeler: Labeler
    """Turns texts into labels."""
    config: TrainConfig
    """Settings of windows, timestamps and prompts, and the seed."""
    ranks: Ranks
    """The processes that train together."""
    total_steps: int
    """Optimizer steps of the run."""
    longest_window: int
    """Samples in the model's own window."""
    teaches_silence: bool = False
    """Whether the model learns to tell silence from speech, as some of the training data have no text."""

    def build(self, batch: Batch, step: int, requests: Requests) -> GlobalBatch:
        """Label this rank's rows, exchange totals with the other ranks, and give every row its window.

        Args:
            batch: This rank's rows.
            step: Optimizer steps before this one.
            requests: What this rank wants all ranks to do after the step.

        Raises:
            TrainingError: The text of a single utterance is too long, or another rank is gone.
        """
        found = [self._label_or_drop(batch, row) for row in range(len(batch.keys))]
        dropped = [key for key, labels in zip(batch.keys, found, strict=True) if labels is None]
        labels = [row or NO_LABELS for row in found]
        is_used = (batch.weights.numpy() > 0) & np.array([row is not None for row in found])
        rows = _describe_rows(batch, labels, is_used)
        head = np.array([[requests.stop, int(requests.save), len(dropped)]], np.int64)
        parts = gather_rows(np.vstack([head, rows]), self.ranks)
        heads = np.stack([part[0] for part in parts])
        all_rows = np.vstack([part[1:] for part in parts])
        windows = self._assign_windows(all_rows, batch.epoch, step)
        first = sum(len(part) - 1 for part in parts[: self.ranks.rank])
        used = all_rows[all_rows[:, 0] > 0]
        return GlobalBatch(
            local=batch,
            labels=labels,
            windows=windows[first : first + len(rows)],
            num_tokens=int(used[:, 2].sum()),
            num_utterances=len(used),
            num_samples=int(used[:, 0].sum()),
            padded_samples=int(windows.sum()),
            shortest_window=int(windows[windows > 0].min(initial=self.longest_window)) if len(used) else 0,
            # Any rank may get a signal, but only rank 0 watches the clock for checkpoints: clocks of machines differ.
            requests=Requests(stop=int(heads[:, 0].max()), save=bool(heads[0, 1])),
            dropped=dropped,
            num_dropped=int(heads[:, 2].sum()),
        )

    def _assign_windows(self, rows: NDArray[np.int64], epoch: int, step: int) -> NDArray[np.int64]:
        """Return the window of every row of all ranks, 0 for rows that are not used.

        Rows are sorted by length and hash first: how they are spread over ranks must not change their windows.
        """
        used = np.flatnonzero(rows[:, 0] > 0)
        order = used[np.lexsort((rows[used, 1], rows[used, 0]))]
        windows = np.zeros(len(rows), np.int64)
        windows[order] = assign_windows(
            rows[order, 0],
            config=self.config.window,
            seed=self.config.stream.seed,
            epoch=epoch,
            step=step,
            total_steps=self.total_steps,
            longest_window=self.longest_window,
        )
        return windows

    def _label_or_drop(self, batch: Batch, row: int) -> LabelRow | None:
        """Return the labels of a row, or None for a packed window with more text than the decoder has room for.

        Which utterances share a window changes with each epoch, so this cannot be checked before the run begins.

        Raises:
            TrainingError: The text of a single utterance is too long.
        """
        try:
            return self._label(batch, row)
        except TrainingError:
            segments = batch.segments[row]
            if len({segment.key for segment in segments}) > 1:
                return None
            if len(segments) < 2:
                raise
            # The times of the phrases are what is too much; those of the utterance are two tokens.
            whole = replace(segments[0], text=batch.texts[row], end_seconds=segments[-1].end_seconds)
            return self._label(batch, row, segments=(whole,))

    def _label(self, batch: Batch, row: int, *, segments: Sequence[Segment] | None = None) -> LabelRow:
        key = batch.keys[row]
        return self.labeler.label(
            batch.texts[row],
            key=key,
            language=batch.languages[row],
            task=batch.tasks[row],
            segments=(segments or batch.segments[row]) if self._draw("timestamps", batch.epoch, key) else None,
            prompt=batch.prompts[row] if batch.prompts and self._draw("prompts", batch.epoch, key) else None,
            teaches_silence=self.teaches_silence,
        )

    def _draw(self, what: Literal["timestamps", "prompts"], epoch: int, key: str) -> bool:
        """Return whether an utterance is among the share that is trained with timestamps, or with its prompt."""
        share = {"timestamps": self.config.timestamps, "prompts": self.config.prompts}[what]
        seed = self.config.stream.seed
        return share > 0 and float(draw_uniform(1, seed, what, epoch, key)[0]) < share


def _describe_rows(batch: Batch, labels: Sequence[LabelRow], is_used: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return what other ranks need to know of each row, shape (B, 3): samples (0: not used), hash of the key, tokens.

    A used row without audio counts as one sample, so that it is not taken for one that is left out.
    """
    num_samples = np.where(is_used, np.maximum(batch.num_samples.numpy(), 1), 0)
    hashes = [zlib.crc32(key.encode()) for key in batch.keys]
    num_tokens = [sum(label >= 0 for label in row.labels) for row in labels]
    return np.stack([num_samples, np.array(hashes, np.int64), np.array(num_tokens, np.int64)], axis=1).astype(np.int64)
