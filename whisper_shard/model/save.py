"""Save model, tokenizer, feature extractor and generation settings as one Hugging Face folder that every tool reads.

transformers 5 writes fewer files than its version 4 did, and other tools still read those: faster-whisper takes the
number of mel bins from preprocessor_config.json, whisper.cpp its vocabulary from vocab.json and added_tokens.json, and
transformers 4 does not load a tokenizer whose ``extra_special_tokens`` are a list. So the folder has both forms.
"""

import copy
import json
import stat
from pathlib import Path
from typing import Any

from whisper_shard.model.adapters import plain_state_dict
from whisper_shard.model.whisper import LoadedWhisper, hide_progress_bars
from whisper_shard.storage.folder import atomic_folder
from whisper_shard.text.languages import whisper_language

NAMED_TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token")
"""Special tokens with a role of their own."""
CARD_NAME = "README.md"
"""The model card, as the model hub names it."""
_LOADING_ARGUMENTS = ("is_local", "local_files_only", "extra_special_tokens")


def save_model_folder(
    loaded: LoadedWhisper,
    folder: Path,
    *,
    language: str | None = None,
    task: str | None = None,
    card: str = "",
) -> None:
    """Write a complete Hugging Face folder, all or nothing; a folder of that name is replaced.

    Low-rank updates are merged into the weights. Everything in the generation settings of the base model is kept, but
    for decoder tokens forced by position, which took the place of language and task.

    Args:
        loaded: The model with its processor.
        folder: Where to write.
        language: BCP-47 tag that generation takes by default; None: as before.
        task: transcribe or translate by default; None: as before.
        card: Model card for README.md; empty: none.

    Raises:
        EnvironmentFault: The disk is full or not writable.
    """
    with atomic_folder(folder) as partial:
        with hide_progress_bars():
            loaded.model.save_pretrained(partial, state_dict=plain_state_dict(loaded.model))
        _generation_settings(loaded, language, task).save_pretrained(partial)
        loaded.processor.save_pretrained(partial)
        _write_files_of_version_4(loaded.processor, partial)
        if card:
            (partial / CARD_NAME).write_text(card, "utf-8")
        _set_permissions(partial)


def _generation_settings(loaded: LoadedWhisper, language: str | None, task: str | None) -> Any:
    """Return the generation settings with language and task by name."""
    settings = copy.deepcopy(loaded.model.generation_config)
    settings.forced_decoder_ids = None
    if loaded.is_multilingual:
        settings.language = whisper_language(language) if language else getattr(settings, "language", None)
        settings.task = task or getattr(settings, "task", None)
    return settings


def _write_files_of_version_4(processor: Any, folder: Path) -> None:
    """Add the files that transformers 5 no longer writes, and the form of special tokens that both versions read."""
    tokenizer = processor.tokenizer
    backend = tokenizer.backend_tokenizer
    bpe = json.loads(backend.to_str())["model"]
    added = backend.get_added_tokens_decoder()
    special = [token.content for token in added.values() if token.special]
    named = {name: str(getattr(tokenizer, name)) for name in NAMED_TOKENS if getattr(tokenizer, name) is not None}
    settings = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    for name in _LOADING_ARGUMENTS:
        settings.pop(name, None)
    processor_class = type(processor).__name__
    files = {
        "preprocessor_config.json": {**processor.feature_extractor.to_dict(), "processor_class": processor_class},
        "vocab.json": bpe["vocab"],
        "added_tokens.json": {token.content: number for number, token in added.items()},
        "special_tokens_map.json": {**named, "additional_special_tokens": special},
        "tokenizer_config.json": {**settings, "additional_special_tokens": special},
    }
    for name, value in files.items():
        text = json.dumps(value, indent=2, ensure_ascii=False)
        (folder / name).write_text(f"{text}\n", "utf-8")
    merges = "".join(f"{left} {right}\n" for left, right in bpe["merges"])
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}", "utf-8")


def _set_permissions(folder: Path) -> None:
    """Give all files the usual permissions."""
    # safetensors writes for the owner alone; config.json has what the umask of this process leaves.
    mode = stat.S_IMODE((folder / "config.json").stat().st_mode)
    for path in folder.iterdir():
        path.chmod(mode)
