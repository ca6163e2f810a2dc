"""Evaluation: one encoder pass of each batch serves the loss and the hypotheses.

The window decides what is measured. ``full`` pads every utterance to the model's 30 s, as every standard tool does;
quote this WER. ``short`` cuts each batch to its longest utterance plus a margin; a model that was never trained in
short windows repeats itself there. ``borrowed`` is short too, with borrowed silence (`borrowed_silence`): an estimate
of ``full`` at a fraction of its cost, for progress during training.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from whisper_shard.errors import TrainingError
from whisper_shard.inference.beam import BeamDecoder
from whisper_shard.inference.confidence import Confidence, ConfidenceMeter
from whisper_shard.inference.decoder import InferenceDecoder
from whisper_shard.inference.encoder import InferenceEncoder
from whisper_shard.inference.greedy import Decoded, DecodedWithLoss, GreedyDecoder, SuppressRules, end_token
from whisper_shard.inference.language import language_tokens
from whisper_shard.inference.timed import TimedDecoder
from whisper_shard.model.borrowed_silence import attention_bias
from whisper_shard.model.device import autocast, is_out_of_memory
from whisper_shard.model.forward import encode_silence
from whisper_shard.model.labels import LabelBatch, Labeler, LabelRow
from whisper_shard.model.log_mel import LogMel
from whisper_shard.model.whisper import LoadedWhisper
from whisper_shard.model.window import fit_window, longest_window, short_window
from whisper_shard.score.evaluation import EvaluatedUtterance, Evaluation, summarize_utterances
from whisper_shard.score.events import Window
from whisper_shard.score.normalize import TextForm
from whisper_shard.stream.batch import Batch
from whisper_shard.utterance import SAMPLE_RATE, Phrase

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationSettings:
    """How a model is evaluated.

    Raises:
        ValueError: The window is ``borrowed``, and there is no silence source; or times are asked for with beams, or
            confidence with prompts.
    """

    window: Window = "full"
    """Kind of window."""
    max_new_tokens: int = 128
    """Cap of a hypothesis in tokens, end token included."""
    dtype: torch.dtype = torch.float32
    """Dtype of matrix products, see `choose_precision`."""
    form: TextForm = "basic"
    """Form of the text that is scored."""
    silence_source: Tensor | None = None
    """(1, S) waveform whose trailing silence windows of kind ``borrowed`` share."""
    num_beams: int = 1
    """Texts that are followed at once; 1: greedy."""
    with_times: bool = False
    """Decode with times, greedily."""
    with_prompts: bool = False
    """Give the model the text before each utterance, where the data has it."""
    with_confidence: bool = False
    """Also measure how sure the model is of each hypothesis and of the language."""

    def __post_init__(self) -> None:
        if self.with_times and (self.num_beams > 1 or self.with_confidence or self.window == "borrowed"):
            raise ValueError("times are decoded greedily, without borrowed silence and confidence")
        if self.with_prompts and self.with_confidence:
            raise ValueError("confidence is measured without prompts")
        if self.window == "borrowed" and self.silence_source is None:
            raise ValueError("windows with borrowed silence need a silence source")


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationPart:
    """What one process evaluated; `finish_evaluation` joins the parts of all."""

    utterances: tuple[EvaluatedUtterance, ...]
    """In order of arrival."""
    loss_sum: float
    """Sum of token losses."""
    num_tokens: int
    """Tokens in that sum."""
    seconds: float
    """Wall time, waiting for data included."""


def evaluate_model(
    loaded: LoadedWhisper, batches: Iterable[Batch], labeler: Labeler, settings: EvaluationSettings
) -> Evaluation:
    """Return loss and WER of a model, computed on its device.

    Args:
        loaded: The model; it is in evaluation mode for the time and left in its mode.
        batches: Utterances, preferably sorted by length.
        labeler: Converts texts to labels and tokens to texts.
        settings: Window, cap, dtype and form of the text.

    Raises:
        TrainingError: There is no utterance to evaluate, or a batch does not fit into memory.
    """
    return finish_evaluation([evaluate_part(loaded, batches, labeler, settings)], settings)


def evaluate_part(
    loaded: LoadedWhisper, batches: Iterable[Batch], labeler: Labeler, settings: EvaluationSettings
) -> EvaluationPart:
    """Evaluate this process's share of the batches; see `evaluate_model`."""
    start = time.perf_counter()
    was_training = loaded.model.training
    loaded.model.eval()
    try:
        evaluator = BatchEvaluator(loaded, labeler, settings)
        parts = [evaluator.evaluate(batch) for batch in batches]
    finally:
        loaded.model.train(was_training)
    return EvaluationPart(
        utterances=tuple(row for part in parts for row in part.utterances),
        loss_sum=sum(part.loss_sum for part in parts),
        num_tokens=sum(part.num_tokens for part in parts),
        seconds=time.perf_counter() - start,
    )


def finish_evaluation(parts: Sequence[EvaluationPart], settings: EvaluationSettings) -> Evaluation:
    """Join the parts of all processes; an utterance in several parts counts once.

    Raises:
        TrainingError: There is no utterance in any part.
    """
    rows = [row for part in parts for row in part.utterances]
    if not rows:
        raise TrainingError("the evaluation set is empty: nothing to score; give --eval a dataset with utterances")
    num_tokens = sum(part.num_tokens for part in parts)
    return summarize_utterances(
        rows,
        window=settings.window,
        form=settings.form,
        loss=sum(part.loss_sum for part in parts) / max(num_tokens, 1),
        seconds=max(part.seconds for part in parts),
    )


class BatchEvaluator:
    """Evaluates batches with the current weights of a model, on its device.

    Args:
        loaded: The model, in evaluation mode.
        labeler: Converts texts to labels and tokens to texts.
        settings: Window, cap and dtype.
    """

    def __init__(self, loaded: LoadedWhisper, labeler: Labeler, settings: EvaluationSettings) -> None:
        model = loaded.model
        self._labeler = labeler
        self._settings = settings
        self._device = model.device
        self._longest_window = longest_window(model)
        self._log_mel = LogMel(loaded.n_mels).to(self._device)
        self._encoder = InferenceEncoder(model, settings.dtype)
        decoder = InferenceDecoder(model, settings.dtype)
        rules, end_id = SuppressRules.of(model), end_token(model)
        self._greedy = GreedyDecoder(decoder, end_id=end_id, rules=rules)
        self._timed = TimedDecoder(model, decoder, labeler) if settings.with_times else None
        self._beams = BeamDecoder(decoder, end_id=end_id, rules=rules, num_beams=settings.num_beams)
        languages = language_tokens(labeler.tokenizer.get_vocab()) if labeler.is_multilingual else {}
        self._meter = ConfidenceMeter(decoder, end_id=end_id, rules=rules, languages=languages)
        self._silence = None
        if settings.window == "borrowed" and settings.silence_source is not None:
            with autocast(self._device, settings.dtype):
                self._silence = encode_silence(model, self._log_mel, settings.silence_source.to(self._device))

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
        start = time.perf_counter()
        rows = [i for i, weight in enumerate(batch.weights.tolist()) if weight > 0.0]
        if not rows:
            return EvaluationPart(utterances=(), loss_sum=0.0, num_tokens=0, seconds=0.0)
        prompts = _select(batch.prompts, rows) if self._settings.with_prompts and batch.prompts else [None] * len(rows)
        labels = [
            self._labeler.label(
                batch.texts[row],
                key=batch.keys[row],
                language=batch.languages[row],
                task=batch.tasks[row],
                prompt=prompt,
            )
            for row, prompt in zip(rows, prompts, strict=True)
        ]
        states, bias = self._encode(batch.waveforms[rows], batch.num_samples[rows])
        seconds = [int(batch.num_samples[row]) / SAMPLE_RATE for row in rows]
        found, phrases = self._decode_rows(states, labels, bias), None
        if self._timed is not None:
            timed = self._timed.decode(
                states,
                languages=_select(batch.languages, rows),
                tasks=_select(batch.tasks, rows),
                seconds=seconds,
                max_new_tokens=self._settings.max_new_tokens,
                prompts=prompts,
            )
            found, phrases = replace(found, decoded=timed.decoded), timed.phrases
        prefixes = self._labeler.prefix_batch(
            len(rows), languages=_select(batch.languages, rows), tasks=_select(batch.tasks, rows)
        )
        confidences = self._measure(states, prefixes, found.decoded, bias)
        utterances = tuple(
            EvaluatedUtterance(
                key=batch.keys[row],
                reference=batch.texts[row],
                hypothesis=self._labeler.decode(found.decoded.token_ids[i]),
                language=batch.languages[row] or self._labeler.language,
                hit_cap=found.decoded.hit_cap[i],
                seconds=seconds[i],
                confidence=confidences[i],
                phrases=phrases[i] if phrases else None,
                reference_phrases=_phrases_of(batch, row) if phrases else (),
            )
            for i, row in enumerate(rows)
        )
        return EvaluationPart(
            utterances=utterances,
            loss_sum=found.loss_sum,
            num_tokens=found.num_tokens,
            seconds=time.perf_counter() - start,
        )

    def _decode_rows(self, states: Tensor, labels: Sequence[LabelRow], bias: Tensor | None) -> DecodedWithLoss:
        """Decode together the rows whose prefixes have the same length: without prompts, all of them."""
        groups: dict[int, list[int]] = {}
        for row, label in enumerate(labels):
            groups.setdefault(label.prefix_length, []).append(row)
        parts, decoded = list[DecodedWithLoss](), dict[int, tuple[tuple[int, ...], bool]]()
        for length, rows in groups.items():
            some = states if len(groups) == 1 else states[torch.tensor(rows, device=states.device)]
            batch = self._labeler.collate([labels[row] for row in rows])
            found = self._decode(some, batch, batch.decoder_input_ids[:, :length], bias)
            parts.append(found)
            # What is to be decoded with times has no tokens yet.
            decoded |= zip(rows, zip(found.decoded.token_ids, found.decoded.hit_cap, strict=True), strict=False)
        in_order = [decoded[row] for row in sorted(decoded)]
        return DecodedWithLoss(
            decoded=Decoded(token_ids=tuple(ids for ids, _ in in_order), hit_cap=tuple(cut for _, cut in in_order)),
            loss_sum=sum(part.loss_sum for part in parts),
            num_tokens=sum(part.num_tokens for part in parts),
            num_steps=sum(part.num_steps for part in parts),
        )

    def _decode(self, states: Tensor, labels: LabelBatch, prefixes: Tensor, bias: Tensor | None) -> DecodedWithLoss:
        most = self._settings.max_new_tokens
        if self._timed is not None:
            loss_sum, num_tokens = self._greedy.measure_loss(states, labels, bias=bias)
            nothing = Decoded(token_ids=(), hit_cap=())  # what is decoded with times takes its place
            return DecodedWithLoss(decoded=nothing, loss_sum=loss_sum, num_tokens=num_tokens, num_steps=0)
        if self._settings.num_beams == 1:
            return self._greedy.decode_labels(states, labels, max_new_tokens=most, bias=bias)
        loss_sum, num_tokens = self._greedy.measure_loss(states, labels, bias=bias)
        decoded = self._beams.decode(states, prefixes, max_new_tokens=most, bias=bias)
        return DecodedWithLoss(decoded=decoded, loss_sum=loss_sum, num_tokens=num_tokens, num_steps=0)

    def _measure(
        self, states: Tensor, prefixes: Tensor, decoded: Decoded, bias: Tensor | None
    ) -> Sequence[Confidence | None]:
        if not self._settings.with_confidence:
            return [None] * len(prefixes)
        return self._meter.measure(
            states,
            prefixes,
            decoded.token_ids,
            has_end=[not cut for cut in decoded.hit_cap],
            bias=bias,
        )

    def _encode(self, waveforms: Tensor, num_samples: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return encoder states, and the attention bias of each of their positions."""
        size = self._longest_window
        if self._settings.window != "full":
            size = min(short_window(int(num_samples.max())), size)
        log_mel = self._log_mel(fit_window(waveforms.to(self._device, non_blocking=True), size))
        if self._silence is None or size == self._longest_window:
            return self._encoder.encode(log_mel), None
        states = self._encoder.encode(log_mel, self._silence)
        silence = self._encoder.silence_states(self._silence, states.shape[1])
        bias = attention_bias(
            states.new_zeros((), dtype=self._settings.dtype), states.shape[1], silence.shape[1], self._silence.stride
        )
        # For cross-attention, borrowed silence is simply more encoder states; the bias gives them their weight.
        return torch.cat([states, silence.expand(len(states), -1, -1)], dim=1), bias


def _phrases_of(batch: Batch, row: int) -> tuple[Phrase, ...]:
    """Return the texts of a row with their times, as the data has them."""
    return tuple(
        Phrase(start=segment.start_seconds, end=segment.end_seconds, text=segment.text)
        for segment in batch.segments[row]
    )


def _select(values: Sequence[Value], rows: Sequence[int]) -> list[Value]:
    return [values[row] for row in rows]
