"""Format openai: the checkpoint of the original package, model.pt, with dimensions and weights under OpenAI's names."""

from pathlib import Path
from typing import Any

import torch

from whisper_shard.export.format import ExportFormat
from whisper_shard.export.names import check_text_tokens, check_vocabulary, openai_weights
from whisper_shard.model.whisper import LoadedWhisper

FILE_NAME = "model.pt"
"""Name of the checkpoint."""
DTYPES = {"float16": torch.float16, "float32": torch.float32}
"""Number formats; openai-whisper computes in what its caller chooses."""


def write_openai(loaded: LoadedWhisper, folder: Path, dtype: str) -> None:
    """Write model.pt, of tensors and numbers only, so that it loads with ``weights_only=True``.

    Args:
        loaded: The model.
        folder: Where to write.
        dtype: One of DTYPES.

    Raises:
        ExportError: The vocabulary is not Whisper's own, which the package has built in.
    """
    check_vocabulary(loaded, "openai-whisper")
    check_text_tokens(loaded, "openai-whisper")
    weights = {name: tensor.to(DTYPES[dtype]) for name, tensor in openai_weights(loaded.model)}
    torch.save({"dims": dimensions(loaded.model.config), "model_state_dict": weights}, folder / FILE_NAME)


def dimensions(config: Any) -> dict[str, int]:
    """Return the dimensions of a model under OpenAI's names.

    Args:
        config: WhisperConfig.
    """
    return {
        "n_mels": config.num_mel_bins,
        "n_audio_ctx": config.max_source_positions,
        "n_audio_state": config.d_model,
        "n_audio_head": config.encoder_attention_heads,
        "n_audio_layer": config.encoder_layers,
        "n_vocab": config.vocab_size,
        "n_text_ctx": config.max_target_positions,
        "n_text_state": config.d_model,
        "n_text_head": config.decoder_attention_heads,
        "n_text_layer": config.decoder_layers,
    }


OPENAI = ExportFormat(tool="openai-whisper", dtypes=tuple(DTYPES), write=write_openai)
