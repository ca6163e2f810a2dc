"""Counts the tokens of a text as Whisper's decoder will get it, with the library `tokenizers` alone."""

import hashlib
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from whisper_shard.errors import ConfigError
from whisper_shard.text.languages import WITHOUT_SPACES, whisper_language
from whisper_shard.utterance import MAX_LABEL_TOKENS

TOKENIZER_NAME = "tokenizer.json"
MULTILINGUAL_VOCABULARY = 51_865
"""Tokens of the smallest multilingual vocabulary; fewer means English only. Source: openai/whisper model.py."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenCounter:
    """Counts tokens as `model.labels.Labeler` does."""

    tokenizer: Any
    """Of the library `tokenizers`."""
    num_prefix: int
    """Tokens before the text: start, language, task and <|notimestamps|>; English-only models have two."""
    max_tokens: int
    """Positions of the decoder."""

    def count(self, text: str, language: str | None = None) -> int:
        """Return the positions that a text and its prefix need.

        Args:
            text: Normalized transcript.
            language: BCP-47 tag; None: one that is written with spaces.
        """
        text = text.strip()
        is_spaced = bool(text) and whisper_language(language or "en") not in WITHOUT_SPACES
        ids = self.tokenizer.encode(f" {text}" if is_spaced else text, add_special_tokens=False).ids
        return self.num_prefix + len(ids)


@cache
def open_tokenizer(folder: str) -> TokenCounter:
    """Return the counter of a model folder, by its tokenizer.json and, where there are any, its two configurations.

    Raises:
        ConfigError: There is no tokenizer.json, or one of them cannot be read.
    """
    import tokenizers

    path = Path(folder, TOKENIZER_NAME)
    if not path.is_file():
        raise ConfigError(f"--tokenizer {folder}: has no {TOKENIZER_NAME}; give the folder of a model")
    try:
        tokenizer: Any = tokenizers.Tokenizer.from_file(str(path))
        config = _read_json(Path(folder, "config.json"))
        generation = _read_json(Path(folder, "generation_config.json"))
        max_tokens = int(config.get("max_target_positions", MAX_LABEL_TOKENS))
        has_languages = int(config.get("vocab_size", MULTILINGUAL_VOCABULARY)) >= MULTILINGUAL_VOCABULARY
    except Exception as error:  # the library raises plain Exception
        raise ConfigError(f"--tokenizer {folder}: cannot be read: {error}") from error
    has_languages = bool(generation.get("is_multilingual", has_languages))
    return TokenCounter(tokenizer=tokenizer, num_prefix=4 if has_languages else 2, max_tokens=max_tokens)


def digest_tokenizer(folder: str) -> str:
    """Return the sha256 of what decides the counts of a model folder.

    Raises:
        ConfigError: See `open_tokenizer`.
    """
    counter = open_tokenizer(folder)
    content = Path(folder, TOKENIZER_NAME).read_bytes()
    return hashlib.sha256(content + f"{counter.num_prefix} {counter.max_tokens}".encode()).hexdigest()


def _read_json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_bytes()) if path.is_file() else {}
    return content
