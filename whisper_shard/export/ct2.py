"""Format ct2, which faster-whisper reads, by CTranslate2's own converter."""

import shutil
from pathlib import Path

from whisper_shard.errors import ConfigError, ExportError
from whisper_shard.export.format import ExportFormat
from whisper_shard.export.hf import write_hf
from whisper_shard.model.whisper import LoadedWhisper, hide_progress_bars

COPIED_FILES = ("tokenizer.json", "preprocessor_config.json")
"""What faster-whisper reads beside the model. Without the second it assumes 80 mel bins, whatever the model has."""
DTYPES = (
    "float16", "float32", "bfloat16", "int8", "int8_float16", "int8_float32", "int8_bfloat16", "int16",
)  # fmt: skip
"""Number formats of CTranslate2."""


def write_ct2(loaded: LoadedWhisper, folder: Path, dtype: str) -> None:
    """Convert a model with CTranslate2.

    Args:
        loaded: The model.
        folder: Where to write.
        dtype: One of DTYPES.

    Raises:
        ConfigError: CTranslate2 is not installed.
        ExportError: CTranslate2 cannot convert the model, or reads another number of mel bins from it.
    """
    try:
        from ctranslate2.converters import TransformersConverter
    except ImportError as error:
        raise ConfigError("--format ct2 needs CTranslate2: pip install 'whisper-shard[export]'") from error
    # The converter reads a folder of transformers, with the files of both its versions, and makes its output anew.
    source, converted = folder / "hf", folder / "ct2"
    write_hf(loaded, source, "float32")
    try:
        converter = TransformersConverter(str(source), copy_files=list(COPIED_FILES))
        with hide_progress_bars():
            converter.convert(str(converted), quantization=dtype)
    except (RuntimeError, ValueError) as error:
        raise ExportError(f"{loaded.path}: CTranslate2 cannot convert it to {dtype}: {error}") from error
    shutil.rmtree(source)
    for path in converted.iterdir():
        path.rename(folder / path.name)
    converted.rmdir()
    _check_mel_bins(loaded, folder)


def _check_mel_bins(loaded: LoadedWhisper, folder: Path) -> None:
    """Compare the mel bins of the converted model: versions of CTranslate2 before 3.21 know 80 only."""
    import ctranslate2

    found = getattr(ctranslate2.models.Whisper(str(folder), device="cpu", compute_type="default"), "n_mels", 80)
    if found != loaded.n_mels:
        raise ExportError(
            f"{loaded.path}: the model has {loaded.n_mels} mel bins, CTranslate2 {ctranslate2.__version__} reads "
            f"{found}; install ctranslate2>=4.7"
        )


CT2 = ExportFormat(tool="faster-whisper", dtypes=DTYPES, write=write_ct2)
