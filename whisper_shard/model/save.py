"""Save model, tokenizer, feature extractor and generation settings as one Hugging Face folder."""

import copy
import os
import shutil
from pathlib import Path
from typing import Any

from whisper_shard.model.adapters import plain_state_dict
from whisper_shard.model.labels import whisper_language
from whisper_shard.model.whisper import LoadedWhisper, hide_progress_bars
from whisper_shard.storage.atomic import as_environment_fault, sync_folder


def save_model_folder(
    loaded: LoadedWhisper,
    folder: Path,
    *,
    language: str | None = None,
    task: str | None = None,
) -> None:
    """Write model, tokenizer, feature extractor and generation settings as one Hugging Face folder, all or nothing.

    ``transformers.pipeline("automatic-speech-recognition", model=folder)`` and ``load_whisper`` read it. Low-rank
    updates are merged into the weights. A folder of that name is replaced.

    Args:
        loaded: The model and what belongs to it.
        folder: Where to write.
        language: BCP-47 tag that generation takes by default; None: as before.
        task: transcribe or translate by default; None: as before.

    Raises:
        EnvironmentFault: The disk is full or does not let us write.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    old = folder.with_name(f".{folder.name}.old")
    try:
        for leftover in (partial, old):
            shutil.rmtree(leftover, ignore_errors=True)
        partial.mkdir(parents=True)
        with hide_progress_bars():
            loaded.model.save_pretrained(partial, state_dict=plain_state_dict(loaded.model))
        _generation_settings(loaded, language, task).save_pretrained(partial)
        loaded.processor.save_pretrained(partial)
        for file in partial.iterdir():
            _sync_file(file)
        if folder.exists():
            folder.rename(old)
        partial.rename(folder)
        sync_folder(folder.parent)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise as_environment_fault(error, folder) from error


def _generation_settings(loaded: LoadedWhisper, language: str | None, task: str | None) -> Any:
    """Return generation settings as today's tools want them: language and task by name, nothing forced by position."""
    settings = copy.deepcopy(loaded.model.generation_config)
    settings.forced_decoder_ids = None
    if loaded.is_multilingual:
        settings.language = whisper_language(language) if language else getattr(settings, "language", None)
        settings.task = task or getattr(settings, "task", None)
    return settings


def _sync_file(path: Path) -> None:
    """Make a file that others wrote survive a power loss."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
