"""The examiner: scores the model on the evaluation set, each rank its share, all with the same result."""

import json
import signal
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from whisper_shard.config.train import TrainConfig
from whisper_shard.dataset.index import Dataset
from whisper_shard.model.labels import Labeler
from whisper_shard.model.whisper import LoadedWhisper
from whisper_shard.score.evaluate import (
    EvaluatedUtterance,
    Evaluation,
    EvaluationPart,
    evaluate_part,
    finish_evaluation,
)
from whisper_shard.score.events import Window
from whisper_shard.stream.batch import Batch
from whisper_shard.stream.loader import open_evaluation
from whisper_shard.train.events import Examining, Progress
from whisper_shard.train.ranks import gather_texts, sum_over_ranks
from whisper_shard.train.run.context import Machine
from whisper_shard.train.signals import StopRequest, stopped_by


@dataclass(frozen=True, slots=True, kw_only=True)
class Examiner:
    """What is needed to score the model at any moment of the run."""

    loaded: LoadedWhisper
    """The model in training."""
    dataset: Dataset
    """Utterances to score."""
    labeler: Labeler
    """Makes labels and texts."""
    config: TrainConfig
    """Batch, limit and longest hypothesis."""
    machine: Machine
    """Where, and with whom."""
    run: Path
    """The run folder, for messages."""
    request: StopRequest
    """Tells when a signal asks to stop."""
    progress: Progress
    """Told of every batch, on rank 0."""
    donor: Tensor | None = None
    """(1, S) waveform, whose silence ``borrowed`` windows hear."""

    def examine(self, window: Window = "full") -> Evaluation:
        """Return loss and WER of the model as it is now, over the utterances of all ranks.

        Raises:
            TrainingError: Another rank is gone.
            StopRequested: SIGTERM or Ctrl-C, on any rank.
        """
        ranks = self.machine.ranks
        loader = open_evaluation(
            self.dataset,
            batch_size=self.config.eval_batch,
            rank=ranks.rank,
            world=ranks.world,
            limit=self.config.eval_limit,
            workers=self.config.workers if self.machine.device.type == "cuda" else 0,
        )
        with closing(loader):
            part = evaluate_part(
                self.loaded,
                self._watch(loader, window),
                self.labeler,
                window=window,
                max_new_tokens=self.config.max_new_tokens,
                precision=self.config.precision,
                device=self.machine.device,
                donor=self.donor,
            )
        parts = [part]
        if ranks.world > 1:
            parts = [_part_from_text(text) for text in gather_texts([json.dumps(asdict(part))], ranks)]
        return finish_evaluation(parts, window=window)

    def examine_quickly(self) -> Evaluation:
        """Return an estimate of `examine` for a fraction of its price; without borrowed silence, in short windows."""
        return self.examine("short" if self.donor is None else "borrowed")

    def _watch(self, batches: Iterable[Batch], window: Window) -> Iterator[Batch]:
        """Yield batches, of which all ranks have the same number; tell of each and stop between them when asked.

        Raises:
            StopRequested: A signal has come, on any rank.
        """
        ranks = self.machine.ranks
        total = min(self.dataset.num_utterances, self.config.eval_limit or self.dataset.num_utterances)
        for number, batch in enumerate(batches, start=1):
            self._stop_if_asked()
            yield batch
            if ranks.is_first:
                done = min(total, number * self.config.eval_batch * ranks.world)
                self.progress(Examining(num_done=done, num_utterances=total, window=window))
        self._stop_if_asked()

    def _stop_if_asked(self) -> None:
        asked = torch.tensor([self.request.signal == number for number in (signal.SIGINT, signal.SIGTERM)])
        interrupted, ended = sum_over_ranks(asked.long(), self.machine.ranks).tolist()
        if interrupted or ended:
            raise stopped_by(signal.SIGINT if interrupted else signal.SIGTERM, self.run, "while evaluating")


def _part_from_text(text: str) -> EvaluationPart:
    value = json.loads(text)
    utterances = tuple(EvaluatedUtterance(**row) for row in value["utterances"])
    return EvaluationPart(**{**value, "utterances": utterances})
