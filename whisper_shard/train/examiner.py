"""The examiner: scores the model on the evaluation set, each rank its share, all with the same result."""

import json
from dataclasses import asdict, dataclass

from whisper_shard.config import TrainConfig
from whisper_shard.formats.index import Dataset
from whisper_shard.stream.loader import open_evaluation
from whisper_shard.train.distributed import gather_texts
from whisper_shard.train.evaluation import (
    EvaluatedUtterance,
    Evaluation,
    EvaluationPart,
    Window,
    evaluate_part,
    finish_evaluation,
)
from whisper_shard.train.model import LoadedWhisper
from whisper_shard.train.setup import Machine
from whisper_shard.train.tokens import Labeler


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

    def examine(self, window: Window = "full") -> Evaluation:
        """Return loss and WER of the model as it is now, over the utterances of all ranks.

        Raises:
            TrainingError: Another rank is gone.
        """
        ranks = self.machine.ranks
        batches = open_evaluation(
            self.dataset,
            batch_size=self.config.eval_batch,
            rank=ranks.rank,
            world=ranks.world,
            limit=self.config.eval_limit,
            workers=self.config.workers if self.machine.device.type == "cuda" else 0,
        )
        part = evaluate_part(
            self.loaded,
            batches,
            self.labeler,
            window=window,
            max_new_tokens=self.config.max_new_tokens,
            precision=self.config.precision,
            device=self.machine.device,
        )
        parts = [part]
        if ranks.world > 1:
            parts = [_part_from_text(text) for text in gather_texts([json.dumps(asdict(part))], ranks)]
        return finish_evaluation(parts, window=window)


def _part_from_text(text: str) -> EvaluationPart:
    value = json.loads(text)
    utterances = tuple(EvaluatedUtterance(**row) for row in value["utterances"])
    return EvaluationPart(**{**value, "utterances": utterances})
