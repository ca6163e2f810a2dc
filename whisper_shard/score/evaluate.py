"""Evaluation: one pass of the encoder a batch feeds the loss and the hypotheses.

The window decides what is measured. ``full`` pads every utterance to the model's 30 s, as every standard tool does,
and is what a WER should be quoted in; ``short`` cuts each batch to its longest utterance plus a margin: a model that
was never trained in short windows repeats itself there; ``borrowed`` is short too, but hears borrowed silence behind
(`silence`): an estimate of ``full`` for a fraction of its price, and a sign of progress.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from whisper_shard.errors import TrainingError
from whisper_shard.inference.decoder import InferenceDecoder
from whisper_shard.inference.encoder import InferenceEncoder
from whisper_shard.inference.greedy import GreedyDecoder, SuppressRules, end_token
from whisper_shard.model.borrowed_silence import score_bias
from whisper_shard.model.device import autocast, choose_precision, is_out_of_memory
from whisper_shard.model.forward import listen_to_silence
from whisper_shard.model.labels import Labeler
from whisper_shard.model.log_mel import LogMel
from whisper_shard.model.whisper import LoadedWhisper
from whisper_shard.model.window import POSITION_SAMPLES, fit_window, short_window
from whisper_shard.score.events import Window
from whisper_shard.score.normalize import TextForm
from whisper_shard.score.wer import Score, score_texts
from whisper_shard.stream.batch import Batch
from whisper_shard.utterance import SAMPLE_RATE

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluatedUtterance:
    """One utterance after evaluation."""

    key: str
    """Name in the dataset."""
    reference: str
    """Text of the dataset."""
    hypothesis: str
    """What the model says."""
    language: str
    """BCP-47 tag: the dataset's, or the one that the model was told."""
    hit_cap: bool
    """Whether the hypothesis was cut off at the cap."""
    seconds: float
    """Length of its audio."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationPart:
    """What one process evaluated; parts of several are joined by `finish_evaluation`."""

    utterances: tuple[EvaluatedUtterance, ...]
    """In order of arrival."""
    loss_sum: float
    """Sum of token losses."""
    num_tokens: int
    """Tokens in that sum."""
    seconds: float
    """Wall time, data waits included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """A model on an evaluation set, in one kind of window."""

    window: Window
    """Kind of window."""
    loss: float
    """Mean loss of a token."""
    score: Score
    """Errors in the chosen form of the text."""
    utterances: tuple[EvaluatedUtterance, ...]
    """All utterances, sorted by key."""
    cap_hits: int
    """Hypotheses that were cut off at the cap."""
    seconds: float
    """Wall time of the slowest process."""

    @property
    def wer(self) -> float:
        """Word error rate in the chosen form of the text."""
        return self.score.wer

    def score_as(self, form: TextForm) -> Score:
        """Return the errors in another form of the text."""
        return _score(self.utterances, form)


def evaluate_model(
    loaded: LoadedWhisper,
    batches: Iterable[Batch],
    labeler: Labeler,
    *,
    window: Window = "full",
    max_new_tokens: int = 128,
    precision: str = "auto",
    device: torch.device | None = None,
    donor: Tensor | None = None,
    form: TextForm = "basic",
) -> Evaluation:
    """Return loss and WER of a model.

    Args:
        loaded: The model; it is put in evaluation mode for the time and left as it was.
        batches: Utterances, best sorted by length.
        labeler: Makes labels and texts.
        window: Kind of window.
        max_new_tokens: Longest hypothesis.
        precision: auto, fp32, bf16 or fp16.
        device: Where to compute; None: where the model is.
        donor: (1, S) waveform, whose silence is borrowed; needed for ``borrowed``.
        form: Form of the text that is scored.

    Raises:
        TrainingError: There is no utterance to evaluate.
    """
    part = evaluate_part(
        loaded,
        batches,
        labeler,
        window=window,
        max_new_tokens=max_new_tokens,
        precision=precision,
        device=device,
        donor=donor,
    )
    return finish_evaluation([part], window=window, form=form)


def evaluate_part(
    loaded: LoadedWhisper,
    batches: Iterable[Batch],
    labeler: Labeler,
    *,
    window: Window = "full",
    max_new_tokens: int = 128,
    precision: str = "auto",
    device: torch.device | None = None,
    donor: Tensor | None = None,
) -> EvaluationPart:
    """Evaluate this process's share; see `evaluate_model`."""
    begin = time.perf_counter()
    model = loaded.model
    device = device or model.device
    was_training = model.training
    model.eval()
    try:
        utterances: list[EvaluatedUtterance] = []
        loss_sum, num_tokens = 0.0, 0
        evaluator = BatchEvaluator(
            loaded,
            labeler,
            window=window,
            max_new_tokens=max_new_tokens,
            dtype=choose_precision(precision, device),
            device=device,
            donor=donor,
        )
        for batch in batches:
            found = evaluator.evaluate(batch)
            utterances += found.utterances
            loss_sum += found.loss_sum
            num_tokens += found.num_tokens
    finally:
        model.train(was_training)
    return EvaluationPart(
        utterances=tuple(utterances), loss_sum=loss_sum, num_tokens=num_tokens, seconds=time.perf_counter() - begin
    )


def finish_evaluation(parts: Sequence[EvaluationPart], *, window: Window, form: TextForm = "basic") -> Evaluation:
    """Join the parts of all processes; utterances that several evaluated count once.

    Raises:
        TrainingError: There is no utterance in any part.
    """
    by_key = {row.key: row for part in parts for row in part.utterances}
    if not by_key:
        raise TrainingError("the evaluation set is empty: nothing to score; give --eval a dataset with utterances")
    utterances = tuple(by_key[key] for key in sorted(by_key))
    num_tokens = sum(part.num_tokens for part in parts)
    return Evaluation(
        window=window,
        loss=sum(part.loss_sum for part in parts) / max(num_tokens, 1),
        score=_score(utterances, form),
        utterances=utterances,
        cap_hits=sum(row.hit_cap for row in utterances),
        seconds=max(part.seconds for part in parts),
    )


def _score(utterances: Sequence[EvaluatedUtterance], form: TextForm) -> Score:
    return score_texts(
        [row.reference for row in utterances],
        [row.hypothesis for row in utterances],
        keys=[row.key for row in utterances],
        languages=[row.language for row in utterances],
        form=form,
    )


class BatchEvaluator:
    """Evaluates batches with one state of the model.

    Args:
        loaded: The model, in evaluation mode.
        labeler: Makes labels and texts.
        window: Kind of window.
        max_new_tokens: Longest hypothesis.
        dtype: Format of matrix products.
        device: Where to compute.
        donor: (1, S) waveform, whose silence is borrowed; needed for ``borrowed``.

    Raises:
        ValueError: Silence is to be borrowed, and there is no donor.
    """

    def __init__(
        self,
        loaded: LoadedWhisper,
        labeler: Labeler,
        *,
        window: Window,
        max_new_tokens: int,
        dtype: torch.dtype,
        device: torch.device,
        donor: Tensor | None = None,
    ) -> None:
        self._labeler = labeler
        self._window = window
        self._max_samples = loaded.model.config.max_source_positions * POSITION_SAMPLES
        self._max_new_tokens = max_new_tokens
        self._device = device
        self._dtype = dtype
        self._log_mel = LogMel(loaded.n_mels).to(device)
        self._encoder = InferenceEncoder(loaded.model, dtype)
        self._silence = None
        if window == "borrowed":
            if donor is None:
                raise ValueError("a borrowed window needs a donor of silence")
            with autocast(device, dtype):
                self._silence = listen_to_silence(loaded.model, self._log_mel, donor.to(device))
        decoder = InferenceDecoder(loaded.model, dtype)
        self._greedy = GreedyDecoder(decoder, end_id=end_token(loaded.model), rules=SuppressRules.of(loaded.model))

    def evaluate(self, batch: Batch) -> EvaluationPart:
        """Return loss and hypotheses of a batch; rows of weight 0 are left out.

        Raises:
            TrainingError: It does not fit into memory.
        """
        try:
            return self._evaluate(batch)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise TrainingError(
                f"evaluation of {len(batch.keys)} utterances at once does not fit into the memory of {self._device}; "
                "use a smaller --eval-batch"
            ) from error

    @torch.inference_mode()
    def _evaluate(self, batch: Batch) -> EvaluationPart:
        begin = time.perf_counter()
        rows = [i for i, weight in enumerate(batch.weights.tolist()) if weight > 0.0]
        if not rows:
            return EvaluationPart(utterances=(), loss_sum=0.0, num_tokens=0, seconds=0.0)
        labels = self._labeler.label_batch(
            _pick(batch.texts, rows),
            keys=_pick(batch.keys, rows),
            languages=_pick(batch.languages, rows),
            tasks=_pick(batch.tasks, rows),
        )
        hidden, bias = self._encode(batch.waveforms[rows], batch.num_samples[rows])
        found = self._greedy.decode_labels(hidden, labels, max_new_tokens=self._max_new_tokens, bias=bias)
        utterances = tuple(
            EvaluatedUtterance(
                key=batch.keys[row],
                reference=batch.texts[row],
                hypothesis=self._labeler.decode(found.decoded.token_ids[i]),
                language=batch.languages[row] or self._labeler.language,
                hit_cap=found.decoded.hit_cap[i],
                seconds=int(batch.num_samples[row]) / SAMPLE_RATE,
            )
            for i, row in enumerate(rows)
        )
        return EvaluationPart(
            utterances=utterances,
            loss_sum=found.loss_sum,
            num_tokens=found.num_tokens,
            seconds=time.perf_counter() - begin,
        )

    def _encode(self, waveforms: Tensor, num_samples: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return encoder states, and what is added to the scores of each of them."""
        size = self._max_samples
        if self._window != "full":
            size = min(short_window(int(num_samples.max())), size)
        log_mel = self._log_mel(fit_window(waveforms.to(self._device, non_blocking=True), size))
        if self._silence is None or size == self._max_samples:
            return self._encoder.encode(log_mel), None
        hidden = self._encoder.encode(log_mel, self._silence)
        behind = self._encoder.behind(self._silence, hidden.shape[1])
        bias = score_bias(
            hidden.new_zeros((), dtype=self._dtype), hidden.shape[1], behind.shape[1], self._silence.stride
        )
        return torch.cat([hidden, behind.expand(len(hidden), -1, -1)], dim=1), bias


def _pick(values: Sequence[Value], rows: Sequence[int]) -> list[Value]:
    return [values[row] for row in rows]
