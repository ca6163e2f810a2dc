"""Load a Whisper with its tokenizer and processor, from a folder or a model hub, and explain what is wrong with it."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import torch
from safetensors import SafetensorError

from whisper_shard.errors import ModelError
from whisper_shard.model.device import explain_broken_install
from whisper_shard.model.weights import fingerprint_model
from whisper_shard.text.tokens import MULTILINGUAL_VOCABULARY


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedWhisper:
    """A Whisper model with its tokenizer and processor."""

    model: Any
    """WhisperForConditionalGeneration with float32 parameters."""
    processor: Any
    """WhisperProcessor: tokenizer and feature extractor, saved beside the model."""
    tokenizer: Any
    """The processor's tokenizer."""
    n_mels: int
    """Mel bins of the encoder's input: 80 or 128."""
    is_multilingual: bool
    """Whether there are language and task tokens."""
    path: str
    """Folder or hub name it was loaded from."""
    fingerprint: str
    """Digest of the weights as loaded, see `fingerprint_model`."""


def load_whisper(model: str, *, dropout: float = 0.0) -> LoadedWhisper:
    """Load a Whisper model, its tokenizer and its generation settings; parameters become float32.

    Args:
        model: Folder in Hugging Face format, or a name on the model hub.
        dropout: Dropout probability after attention and feed-forward blocks, when training.

    Raises:
        ModelError: The folder is missing, damaged, incomplete or not a Whisper, or the hub cannot be reached.
        EnvironmentFault: transformers cannot be imported beside this torchaudio.
    """
    with explain_broken_install():
        from transformers import AutoConfig, WhisperForConditionalGeneration, WhisperProcessor
    _check_folder(model)
    # Without a network the hub's library tries for half a minute, file by file, before it looks into its own cache.
    is_local = Path(model).is_dir() or not _can_resolve_hub()
    with _explain_load(model), hide_progress_bars():
        config = AutoConfig.from_pretrained(model, local_files_only=is_local)
        if config.model_type != "whisper":
            raise ModelError(f"{model}: a {config.model_type} model; whisper-shard trains Whisper only")
        config.dropout = dropout
        config.attention_dropout = config.activation_dropout = config.encoder_layerdrop = 0.0
        network = WhisperForConditionalGeneration.from_pretrained(
            model, config=config, dtype=torch.float32, attn_implementation="sdpa", local_files_only=is_local
        )
        processor = WhisperProcessor.from_pretrained(model, local_files_only=is_local)
    return LoadedWhisper(
        model=network,
        processor=processor,
        tokenizer=processor.tokenizer,
        n_mels=network.config.num_mel_bins,
        is_multilingual=is_multilingual(network),
        path=model,
        fingerprint=fingerprint_model(network),
    )


def allow_empty_output(model: Any) -> None:
    """Let the end token be the first of a text, which Whisper's generation settings forbid; saved with the model.

    Without that a model that has learned that nothing is said still has to write something, in this package as in
    transformers.
    """
    settings = model.generation_config
    end = settings.eos_token_id
    ends = end if isinstance(end, list) else [end]
    kept = [token for token in settings.begin_suppress_tokens or () if token not in ends]
    settings.begin_suppress_tokens = kept or None


def is_multilingual(model: Any) -> bool:
    """Return whether a model has language and task tokens."""
    stated = getattr(model.generation_config, "is_multilingual", None)
    return bool(stated) if stated is not None else model.config.vocab_size >= MULTILINGUAL_VOCABULARY


def _check_folder(model: str) -> None:
    """Check a local folder before transformers does, whose messages are long and name other causes.

    Raises:
        ModelError: It is missing, or a file in it.
    """
    folder = Path(model)
    if not folder.is_dir():
        if model.startswith(("/", ".", "~")) or model.endswith("/") or model.count("/") > 1 or folder.exists():
            raise ModelError(
                f"{model}: no such model folder; give a folder with config.json or a name on the model hub"
            )
        return
    if not (folder / "config.json").is_file():
        raise ModelError(f"{model}: not a model folder, config.json is missing")
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        raise ModelError(f"{model}: no tokenizer in it (tokenizer.json); save model and processor into one folder")
    if not any((folder / name).is_file() for name in ("processor_config.json", "preprocessor_config.json")):
        raise ModelError(
            f"{model}: no processor in it (processor_config.json or preprocessor_config.json); "
            "save model and processor into one folder"
        )


def _can_resolve_hub() -> bool:
    """Return whether the host name of the model hub resolves; a proxy resolves it itself."""
    from huggingface_hub import constants

    try:
        return bool(getproxies() or socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, None))
    except OSError:
        return False


@contextmanager
def _explain_load(model: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        first_line = next(iter(str(error).strip().splitlines()), repr(error))
        if Path(model).is_dir():
            raise ModelError(f"{model}: cannot be loaded: {first_line}") from error
        raise ModelError(
            f"{model}: neither a folder here nor loadable from the model hub ({first_line}); "
            "check the name and the network, or give a folder"
        ) from error


@contextmanager
def hide_progress_bars() -> Iterator[None]:
    """Hide the progress bars of transformers for the time: only the command line shows progress."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
