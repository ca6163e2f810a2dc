"""Format hf: a clean folder of transformers, with the files of its versions 4 and 5."""

import copy
from dataclasses import replace
from pathlib import Path

import torch

from whisper_shard.export.format import ExportFormat
from whisper_shard.model.save import save_model_folder
from whisper_shard.model.whisper import LoadedWhisper

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
"""Number formats of safetensors that transformers computes in."""


def write_hf(loaded: LoadedWhisper, folder: Path, dtype: str) -> None:
    """Write a Hugging Face folder.

    Args:
        loaded: The model; it is not changed.
        folder: Where to write.
        dtype: One of DTYPES.
    """
    if DTYPES[dtype] != loaded.model.dtype:
        loaded = replace(loaded, model=copy.deepcopy(loaded.model).to(DTYPES[dtype]))
    save_model_folder(loaded, folder)


HF = ExportFormat(tool="transformers", dtypes=tuple(DTYPES), write=write_hf)
