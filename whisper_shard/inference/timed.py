"""Texts of utterances with times: one window each, decoded by Whisper's rules for times."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from whisper_shard.inference.decoder import InferenceDecoder
from whisper_shard.inference.greedy import Decoded, SuppressRules, end_token
from whisper_shard.inference.timestamps import LATEST_START, TimestampRules, split_segments
from whisper_shard.inference.window_decoder import WindowDecoder
from whisper_shard.model.labels import Labeler
from whisper_shard.utterance import FRAMES_PER_SECOND, Phrase


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedTexts:
    """Hypotheses of a batch with times."""

    decoded: Decoded
    """Tokens of the texts alone."""
    phrases: tuple[tuple[Phrase, ...], ...]
    """The parts of each text with their times."""


class TimedDecoder:
    """Decodes utterances with times, greedily.

    Args:
        model: WhisperForConditionalGeneration.
        decoder: Its prepared weights.
        labeler: Converts texts to labels and tokens to texts.

    Raises:
        ConfigError: The tokenizer has no times.
    """

    def __init__(self, model: Any, decoder: InferenceDecoder, labeler: Labeler) -> None:
        self._labeler = labeler
        self._end_id = end_token(model)
        self._first_time = labeler.time_id(0.0)
        latest = getattr(model.generation_config, "max_initial_timestamp_index", None)
        self._windows = WindowDecoder(
            decoder,
            rules=SuppressRules.of(model),
            times=TimestampRules(
                first_time=self._first_time,
                end_id=self._end_id,
                latest_start=LATEST_START if latest is None else latest,
            ),
            start_id=labeler.start_id,
            no_speech_id=self._first_time - 2,  # <|nospeech|>, in some tokenizers called <|nocaptions|>
        )

    def decode(
        self,
        encoder_states: Tensor,
        *,
        languages: Sequence[str | None],
        tasks: Sequence[str | None],
        seconds: Sequence[float],
        max_new_tokens: int,
        prompts: Sequence[str | None] = (),
    ) -> TimedTexts:
        """Return the hypotheses of a batch.

        Args:
            encoder_states: (B, T // 2, D).
            languages: BCP-47 tags; None: the labeler's.
            tasks: ``transcribe`` or ``translate``; None: the labeler's.
            seconds: Length of each utterance, where a last phrase without an end ends.
            max_new_tokens: Cap of a hypothesis in tokens, times and end token included.
            prompts: What was said before each; empty: nothing.
        """
        before = prompts or [None] * len(languages)
        prefixes = [
            (*self._labeler.prompt_ids(prompt, language), *self._labeler.prefix_ids(language, task, timestamps=True))
            for language, task, prompt in zip(languages, tasks, before, strict=True)
        ]
        found = self._windows.decode(encoder_states, prefixes, max_new_tokens=max_new_tokens)
        texts = [tuple(token for token in row.token_ids if token < self._end_id) for row in found]
        return TimedTexts(
            decoded=Decoded(
                token_ids=tuple(texts), hit_cap=tuple(len(row.token_ids) == max_new_tokens for row in found)
            ),
            phrases=tuple(
                self._list_phrases(row.token_ids, length) for row, length in zip(found, seconds, strict=True)
            ),
        )

    def _list_phrases(self, token_ids: Sequence[int], seconds: float) -> tuple[Phrase, ...]:
        frames = round(seconds * FRAMES_PER_SECOND)
        segments, _ = split_segments(token_ids, first_time=self._first_time, num_frames=frames, keep_rest=True)
        phrases = (
            Phrase(
                start=segment.start / FRAMES_PER_SECOND,
                end=max(segment.start, segment.end) / FRAMES_PER_SECOND,  # a time may lie behind the audio
                text=self._labeler.decode([token for token in segment.token_ids if token < self._end_id]),
            )
            for segment in segments
        )
        return tuple(phrase for phrase in phrases if phrase.text)
