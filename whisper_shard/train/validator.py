"""Scores the model on the evaluation set during training; every rank scores its part, all get the same result."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from whisper_shard.dataset.index import Dataset
from whisper_shard.dataset.sources.open import open_sources
from whisper_shard.errors import TrainingError
from whisper_shard.model.labels import Labeler
from whisper_shard.model.whisper import LoadedWhisper
from whisper_shard.score.evaluate import EvaluationPart, EvaluationSettings, evaluate_part, finish_evaluation
from whisper_shard.score.evaluation import EvaluatedUtterance, Evaluation
from whisper_shard.score.events import Window
from whisper_shard.stream.batch import Batch
from whisper_shard.stream.loader import open_evaluation
from whisper_shard.train.events import Evaluating
from whisper_shard.train.ranks import gather_texts, sum_over_ranks
from whisper_shard.train.run.context import RunContext
from whisper_shard.train.run.snapshot import Trainable
from whisper_shard.train.signals import STOP_SIGNALS, stop_error


@dataclass(frozen=True, slots=True, kw_only=True)
class Validator:
    """Scores the model at any moment of the run."""

    context: RunContext
    """Settings of the evaluation, ranks, stop request and progress callback."""
    loaded: LoadedWhisper
    """The model in training."""
    trainable: Trainable
    """The same model, of whose weights this rank may have a part only."""
    dataset: Dataset
    """Utterances to score."""
    labeler: Labeler
    """Turns texts into labels and tokens into texts."""
    silence_source: Tensor | None = None
    """(1, S) waveform; ``borrowed`` windows attend to the silence behind it."""

    def evaluate(self, window: Window = "full") -> Evaluation:
        """Return loss and WER of the model as it is now, over the utterances of all ranks.

        Raises:
            TrainingError: Another rank is gone.
            StopRequested: A signal has come, on any rank.
        """
        config, machine = self.context.config, self.context.machine
        loader = open_evaluation(
            self.dataset,
            batch_size=config.evaluation.eval_batch,
            rank=machine.ranks.rank,
            world=machine.ranks.world,
            limit=config.evaluation.eval_limit,
            # On a CPU loader processes would only compete with the model for cores.
            workers=config.stream.workers if machine.device.type == "cuda" else 0,
            open_source=open_sources(config.stream),
        )
        settings = EvaluationSettings(
            window=window,
            max_new_tokens=config.evaluation.max_new_tokens,
            dtype=machine.dtype,
            silence_source=self.silence_source,
        )
        with closing(loader), self.trainable.whole_weights():
            part = evaluate_part(self.loaded, self._report_batches(loader, window), self.labeler, settings)
        parts = [part]
        if machine.ranks.world > 1:
            parts = [_part_from_text(text) for text in gather_texts([json.dumps(asdict(part))], machine.ranks)]
        return finish_evaluation(parts, settings)

    def estimate_wer(self) -> Evaluation:
        """Estimate `evaluate` at a fraction of its cost: in short windows, with borrowed silence if there is any."""
        return self.evaluate("short" if self.silence_source is None else "borrowed")

    def check_first(self, evaluation: Evaluation) -> None:
        """Check, before any training, that evaluations of this model on this data mean something.

        Raises:
            TrainingError: The model is damaged, or there is not a single reference word.
        """
        if not math.isfinite(evaluation.loss):
            raise TrainingError(
                f"{self.loaded.path}: before any training its loss on the evaluation data is {evaluation.loss:g}: "
                "its weights are damaged; take another model"
            )
        if evaluation.score.num_reference_words == 0:
            raise TrainingError(
                f"{self.dataset.location}: its texts have no word once punctuation is dropped, such as "
                f"{evaluation.utterances[0].key}; WER would mean nothing: correct them, or give other data by --eval"
            )

    def _report_batches(self, batches: Iterable[Batch], window: Window) -> Iterator[Batch]:
        """Yield batches, report each one that was scored, and stop between two of them if asked.

        All ranks have the same number of batches, so each of them takes part in every exchange about stopping.

        Raises:
            StopRequested: A signal has come, on any rank.
        """
        config, ranks = self.context.config.evaluation, self.context.machine.ranks
        total = min(self.dataset.num_utterances, config.eval_limit or self.dataset.num_utterances)
        self._report_scored(0, total, window)
        for number, batch in enumerate(batches, start=1):
            self._stop_if_asked()
            yield batch
            self._report_scored(min(total, number * config.eval_batch * ranks.world), total, window)
        self._stop_if_asked()

    def _report_scored(self, num_done: int, total: int, window: Window) -> None:
        if self.context.machine.ranks.is_first:
            self.context.progress(Evaluating(num_done=num_done, num_utterances=total, window=window))

    def _stop_if_asked(self) -> None:
        """Stop on all ranks as soon as one has got a signal: a rank that left alone would leave the others waiting.

        Raises:
            StopRequested: A signal has come, on any rank.
        """
        received = self.context.request.signal
        counts = torch.tensor([received == number for number in STOP_SIGNALS]).long()
        for number, count in zip(
            STOP_SIGNALS, sum_over_ranks(counts, self.context.machine.ranks).tolist(), strict=True
        ):
            if count == 0:
                continue
            raise stop_error(number, self.context.folder.shown, "while evaluating")


def evaluate_others(validator: Validator, datasets: Mapping[str, Dataset]) -> dict[str, Evaluation]:
    """Return the scores on the further evaluation data by name, in 30 s windows.

    Raises:
        TrainingError: Another rank is gone.
        StopRequested: A signal has come, on any rank.
    """
    return {name: replace(validator, dataset=data).evaluate() for name, data in datasets.items()}


def _part_from_text(text: str) -> EvaluationPart:
    value = json.loads(text)
    utterances = tuple(EvaluatedUtterance(**row) for row in value["utterances"])
    return EvaluationPart(**{**value, "utterances": utterances})
