"""Texts become decoder inputs and labels, built token by token.

    inputs     [<|startofprev|> prompt] <|startoftranscript|> <|en|> <|transcribe|> <|notimestamps|> hel lo
    labels      -               -       -                     -      -              hel              lo  <|endoftext|>

There is one start token, the end token has a label, and the prefix has none: language, task and timestamps are given
to the model, not predicted by it. The first label is the first token of text (with timestamps: the first time).
Where nothing is said it is the end token, and the start token may have a label too: <|nospeech|>.
English-only models (``.en``) have neither language nor task. All ids come from the tokenizer, so that all sizes and
versions of Whisper work.

Source: openai/whisper tokenizer.py, https://github.com/openai/whisper/blob/main/whisper/tokenizer.py; arXiv:2212.04356
section 2.3.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from whisper_shard.errors import ConfigError, TrainingError
from whisper_shard.model.loss import IGNORE_INDEX
from whisper_shard.text.languages import WITHOUT_SPACES, describe_near_languages, whisper_language
from whisper_shard.utterance import MAX_LABEL_TOKENS, MAX_SECONDS, Segment

TIME_STEP_SECONDS = 0.02
"""Time between two timestamp tokens. Source: openai/whisper tokenizer.py."""
_PREFIX_TOKENS = 8  # start, language, task and two time tokens, and the bytes of spaces in front
_CACHED_WORDS = 1 << 18  # words whose token counts are remembered


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelRow:
    """Decoder input and labels of one window; both have the same length."""

    decoder_input_ids: tuple[int, ...]
    """Prefix and text."""
    labels: tuple[int, ...]
    """The next token at each position, or IGNORE_INDEX."""

    @property
    def prefix_length(self) -> int:
        """Inputs up to the first that has a label: what is given to the model before the text."""
        return next(place for place, label in enumerate(self.labels, 1) if label != IGNORE_INDEX)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelBatch:
    """Label rows padded to one length."""

    decoder_input_ids: Tensor
    """(B, L) int64; padded with the end token."""
    labels: Tensor
    """(B, L) int64; padded with IGNORE_INDEX."""
    kept: Tensor
    """(N,) int64: positions in the flattened labels that count, for `token_loss`."""


class Labeler:
    """Converts texts to decoder inputs and labels, and tokens back to text.

    Args:
        tokenizer: Whisper's tokenizer, from transformers.
        language: BCP-47 tag for utterances without one; empty: en.
        task: transcribe or translate, for utterances without one.
        is_multilingual: Whether the model has language and task tokens.
        max_tokens: Positions of the decoder.

    Raises:
        ConfigError: The tokenizer lacks a token of Whisper, or the language or task is unknown.
    """

    def __init__(
        self,
        tokenizer: Any,
        language: str = "en",
        task: str = "transcribe",
        *,
        is_multilingual: bool = True,
        max_tokens: int = MAX_LABEL_TOKENS,
    ) -> None:
        self.tokenizer = tokenizer
        self.language = language or "en"
        self.task = task
        self.is_multilingual = is_multilingual
        self.max_tokens = max_tokens
        self._vocabulary: dict[str, int] = tokenizer.get_vocab()
        self.start_id = self._token_id("<|startoftranscript|>")
        self.end_id = self._token_id("<|endoftext|>")
        self._no_timestamps_id = self._token_id("<|notimestamps|>")
        self._prefixes: dict[tuple[str | None, str | None, bool], tuple[int, ...]] = {}
        self._splits_at_spaces = _splits_at_spaces(tokenizer.backend_tokenizer)
        self._count_word = lru_cache(_CACHED_WORDS)(self._count_tokens)
        self.prefix_ids(None, None)

    def prefix_ids(
        self, language: str | None = None, task: str | None = None, *, timestamps: bool = False
    ) -> tuple[int, ...]:
        """Return the tokens before the text: start, language, task and, without timestamps, <|notimestamps|>.

        Prefixes of all languages and tasks have the same length.

        Raises:
            ConfigError: Unknown language or task.
        """
        if (language, task, timestamps) not in self._prefixes:
            ids = [self.start_id]
            if self.is_multilingual:
                ids += [self._language_id(language or self.language), self._task_id(task or self.task)]
            ids += [] if timestamps else [self._no_timestamps_id]
            self._prefixes[language, task, timestamps] = tuple(ids)
        return self._prefixes[language, task, timestamps]

    def label(
        self,
        text: str,
        *,
        key: str = "",
        language: str | None = None,
        task: str | None = None,
        segments: Sequence[Segment] | None = None,
        prompt: str | None = None,
        teaches_silence: bool = False,
    ) -> LabelRow:
        """Return decoder input and labels of one utterance.

        Args:
            text: Normalized transcript; empty: nothing is said. If there are segments, theirs are used.
            key: Name of the utterance, for errors.
            language: BCP-47 tag; None: the default.
            task: transcribe or translate; None: the default.
            segments: Texts with times; if given, the labels have timestamps.
            prompt: Previous text; part of the decoder input, without labels. If it is too long, its end is kept.
            teaches_silence: Also label the start token: <|nospeech|> where nothing is said, else the token behind it.

        Raises:
            TrainingError: More tokens than the decoder has positions, or a time outside the window.
            ConfigError: Unknown language or task.
        """
        prefix = self.prefix_ids(language, task, timestamps=segments is not None)
        code = whisper_language(language or self.language)
        body = self._text_ids(text, code) if segments is None else self._segment_ids(segments, code, key)
        num_tokens = len(prefix) + len(body)
        if num_tokens > self.max_tokens:
            raise TrainingError(
                f"utterance {key}: its text needs {num_tokens} tokens, the decoder has {self.max_tokens} positions; "
                "shorten or remove it"
            )
        history = self.prompt_ids(prompt, language, room=self.max_tokens - num_tokens)
        inputs = (*history, *prefix, *body)
        labels = [IGNORE_INDEX] * (len(history) + len(prefix) - 1) + [*body, self.end_id]
        if teaches_silence:
            labels[len(history)] = inputs[len(history) + 1] if text.strip() else self.no_speech_id
        return LabelRow(decoder_input_ids=inputs, labels=tuple(labels))

    @property
    def previous_id(self) -> int:
        """Token <|startofprev|>, which precedes a text of what was said before."""
        return self._token_id("<|startofprev|>")

    def prompt_ids(self, prompt: str | None, language: str | None = None, *, room: int = MAX_LABEL_TOKENS) -> list[int]:
        """Return <|startofprev|> and the end of a text, to be put before the start token.

        Args:
            prompt: What was said before; None or empty: nothing, and nothing is returned.
            language: BCP-47 tag; None: the default.
            room: Positions left; at most half of the decoder's are used, as in Whisper's own decoding.
        """
        room = min(room - 1, self.max_tokens // 2 - 1)
        if not prompt or room < 1:
            return []
        return [self.previous_id, *self._text_ids(prompt, whisper_language(language or self.language))[-room:]]

    @property
    def no_speech_id(self) -> int:
        """Token <|nospeech|>, in some tokenizers <|nocaptions|>: what follows the start token where nobody speaks."""
        return self._no_timestamps_id - 1

    def time_id(self, seconds: float) -> int:
        """Return the token of a time, 0 to 30 s.

        Raises:
            ConfigError: The tokenizer has none.
            TrainingError: The time lies outside of the window.
        """
        return self._time_id(seconds, "")

    @property
    def safe_bytes(self) -> int:
        """Bytes of UTF-8 that always fit: byte-level BPE makes at most a token a byte. -1 for other tokenizers."""
        return self.max_tokens - _PREFIX_TOKENS if self._splits_at_spaces else -1

    def has_room(self, text: str, *, language: str | None = None, timestamps: bool = False) -> bool:
        """Return whether the decoder has enough positions for a text, many times as fast as `label` would find out.

        Args:
            text: Normalized transcript.
            language: BCP-47 tag; None: the default.
            timestamps: Whether it gets a time token before and after.

        Raises:
            ConfigError: Unknown language.
        """
        room = self.max_tokens - len(self.prefix_ids(language, timestamps=timestamps)) - 2 * timestamps
        code = whisper_language(language or self.language)
        words = text.split()
        # A corpus has few distinct words: counting each once is what makes this fast. Other white space than single
        # spaces makes tokens of its own, so such texts are tokenized in full.
        if self._splits_at_spaces and code not in WITHOUT_SPACES and words == text.strip().split(" "):
            return sum(map(self._count_word, words)) <= room
        return len(self._text_ids(text, code)) <= room

    def label_batch(
        self,
        texts: Sequence[str],
        *,
        keys: Sequence[str] = (),
        languages: Sequence[str | None] = (),
        tasks: Sequence[str | None] = (),
        segments: Sequence[Sequence[Segment] | None] = (),
        prompts: Sequence[str | None] = (),
        weights: Sequence[float] | Tensor = (),
    ) -> LabelBatch:
        """Return padded decoder inputs and labels of a batch; arguments left out take their default in every row.

        Args:
            texts: One a row; see `label` for the others.
            keys: Names for errors.
            languages: BCP-47 tags or None.
            tasks: transcribe, translate or None.
            segments: Texts with times, or None.
            prompts: Previous texts, or None.
            weights: Rows of weight 0 get no labels.

        Raises:
            TrainingError: See `label`.
            ConfigError: See `label`.
        """
        rows = [
            self.label(
                text,
                key=keys[i] if keys else f"in row {i}",
                language=languages[i] if languages else None,
                task=tasks[i] if tasks else None,
                segments=segments[i] if segments else None,
                prompt=prompts[i] if prompts else None,
            )
            for i, text in enumerate(texts)
        ]
        return self.collate(rows, weights=weights)

    def collate(self, rows: Sequence[LabelRow], *, weights: Sequence[float] | Tensor = ()) -> LabelBatch:
        """Pad rows to one length; rows of weight 0 get no labels."""
        length = max(len(row.labels) for row in rows)
        inputs = torch.full((len(rows), length), self.end_id, dtype=torch.int64)
        labels = torch.full((len(rows), length), IGNORE_INDEX, dtype=torch.int64)
        for i, row in enumerate(rows):
            inputs[i, : len(row.decoder_input_ids)] = torch.tensor(row.decoder_input_ids)
            if len(weights) == 0 or float(weights[i]) > 0.0:
                labels[i, : len(row.labels)] = torch.tensor(row.labels)
        kept = (labels.flatten() != IGNORE_INDEX).nonzero()[:, 0]
        return LabelBatch(decoder_input_ids=inputs, labels=labels, kept=kept)

    def prefix_batch(
        self, num_rows: int, *, languages: Sequence[str | None] = (), tasks: Sequence[str | None] = ()
    ) -> Tensor:
        """Return the prefixes of a batch, (B, P) int64."""
        return torch.tensor(
            [self.prefix_ids(languages[i] if languages else None, tasks[i] if tasks else None) for i in range(num_rows)]
        )

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of tokens, without special tokens and surrounding space."""
        text: str = self.tokenizer.decode(list(token_ids), skip_special_tokens=True)
        return text.strip()

    def _text_ids(self, text: str, code: str) -> list[int]:
        text = text.strip()
        spaced = text if code in WITHOUT_SPACES or not text else f" {text}"
        ids: list[int] = self.tokenizer.encode(spaced, add_special_tokens=False, verbose=False)
        return ids

    def _count_tokens(self, word: str) -> int:
        return len(self._text_ids(word, ""))

    def _segment_ids(self, segments: Sequence[Segment], code: str, key: str) -> list[int]:
        # Decoding with times begins with one in any case; where nothing is said the end follows.
        ids = [] if segments else [self._time_id(0.0, key)]
        for segment in segments:
            times = self._time_id(segment.start_seconds, key), self._time_id(segment.end_seconds, key)
            ids += [times[0], *self._text_ids(segment.text, code), times[1]]
        return ids

    def _time_id(self, seconds: float, key: str) -> int:
        if not 0.0 <= seconds <= MAX_SECONDS:
            raise TrainingError(
                f"utterance {key}: timestamp {seconds:g} s lies outside the window of 0 to {MAX_SECONDS:g} s"
            )
        return self._token_id(f"<|{round(seconds / TIME_STEP_SECONDS) * TIME_STEP_SECONDS:.2f}|>")

    def _language_id(self, language: str) -> int:
        token = f"<|{whisper_language(language)}|>"
        if token not in self._vocabulary:
            raise ConfigError(
                f"language {language!r}: the model has no token {token}; {describe_near_languages(language)}"
            )
        return self._vocabulary[token]

    def _task_id(self, task: str) -> int:
        if task not in ("transcribe", "translate"):
            raise ConfigError(f"task {task!r} is unknown; use transcribe or translate")
        return self._token_id(f"<|{task}|>")

    def _token_id(self, token: str) -> int:
        if token not in self._vocabulary:
            raise ConfigError(f"the tokenizer has no token {token}: it is not one of Whisper's")
        return self._vocabulary[token]


def _splits_at_spaces(backend: Any) -> bool:
    """Return whether a tokenizer merges bytes within words only, as Whisper's own does.

    Then the tokens of a text are those of its words, each with its leading space. Source: the expression of ByteLevel,
    https://github.com/huggingface/tokenizers/blob/main/tokenizers/src/pre_tokenizers/byte_level.rs
    """
    from tokenizers import pre_tokenizers

    split = backend.pre_tokenizer
    return backend.normalizer is None and isinstance(split, pre_tokenizers.ByteLevel) and split.use_regex
