"""Format ggml, which whisper.cpp reads: one file with dimensions, mel filters, vocabulary and weights.

All numbers are little-endian. Matrices are quantized in blocks of 32 values of a row, which share a scale.

Source: whisper_model_load in whisper.cpp and block_q5_0, block_q8_0 in ggml-common.h of ggml-org/whisper.cpp.
"""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from whisper_shard.errors import ExportError
from whisper_shard.export.format import ExportFormat
from whisper_shard.export.names import check_vocabulary, openai_weights, text_tokens
from whisper_shard.export.openai import dimensions
from whisper_shard.model.log_mel import mel_filters
from whisper_shard.model.whisper import LoadedWhisper

FILE_NAME = "ggml-model.bin"
"""Name of the file."""
MAGIC = 0x67676D6C
"""``ggml``, the first four bytes."""
BLOCK = 32
"""Values that share a scale."""
_QUANTIZATION_VERSION = 2000  # GGML_QNT_VERSION * GGML_QNT_VERSION_FACTOR
_FILE_TYPES = {
    "float16": 1, "q8_0": _QUANTIZATION_VERSION + 7, "q5_0": _QUANTIZATION_VERSION + 8,
}  # fmt: skip
_TENSOR_TYPES = {"float32": 0, "float16": 1, "q5_0": 6, "q8_0": 8}
_ALWAYS_FLOAT32 = ("encoder.positional_embedding", "decoder.positional_embedding", "conv1.bias", "conv2.bias")
_DIMENSIONS = (
    "n_vocab", "n_audio_ctx", "n_audio_state", "n_audio_head", "n_audio_layer",
    "n_text_ctx", "n_text_state", "n_text_head", "n_text_layer", "n_mels",
)  # fmt: skip


def write_ggml(loaded: LoadedWhisper, folder: Path, dtype: str) -> None:
    """Write ggml-model.bin.

    Args:
        loaded: The model.
        folder: Where to write.
        dtype: One of float16, q8_0, q5_0; whisper.cpp convolves with float16 only.

    Raises:
        ExportError: The vocabulary is not Whisper's own, or the width is no multiple of 32 where rows are quantized.
    """
    check_vocabulary(loaded, "whisper.cpp")
    if dtype in ("q8_0", "q5_0") and loaded.model.config.d_model % BLOCK:
        raise ExportError(
            f"--quantize {dtype}: rows of {loaded.model.config.d_model} values are no multiple of {BLOCK}; use float16"
        )
    with (folder / FILE_NAME).open("wb") as file:
        sizes = dimensions(loaded.model.config)
        file.write(struct.pack("<12i", MAGIC, *(sizes[name] for name in _DIMENSIONS), _FILE_TYPES[dtype]))
        filters = mel_filters(loaded.n_mels).numpy().astype("<f4")
        file.write(struct.pack("<2i", *filters.shape) + filters.tobytes())
        tokens = text_tokens(loaded)
        file.write(struct.pack("<i", len(tokens)))
        file.writelines(struct.pack("<i", len(token)) + token for token in tokens)
        for name, tensor in openai_weights(loaded.model):
            _write_tensor(file, name, tensor.float().cpu().numpy(), dtype)


def _write_tensor(file: BinaryIO, name: str, values: NDArray[np.float32], dtype: str) -> None:
    if name.endswith(("conv1.bias", "conv2.bias")):
        values = values[:, None]
    kind = _tensor_type(name, values.ndim, dtype)
    encoded = name.encode()
    file.write(struct.pack("<3i", values.ndim, len(encoded), _TENSOR_TYPES[kind]))
    file.write(struct.pack(f"<{values.ndim}i", *reversed(values.shape)) + encoded)
    file.write(_ENCODERS[kind](values))


def _tensor_type(name: str, num_dimensions: int, dtype: str) -> str:
    """Return the type in which whisper.cpp expects a tensor; it quantizes matrices, but not convolutions."""
    if num_dimensions < 2 or name.endswith(_ALWAYS_FLOAT32):
        return "float32"
    return "float16" if num_dimensions > 2 else dtype


def quantize_q8_0(values: NDArray[np.float32]) -> bytes:
    """Return values in blocks of a float16 scale and 32 int8: value = scale * integer."""
    blocks = values.reshape(-1, BLOCK)
    scale = np.abs(blocks).max(axis=1, keepdims=True) / 127.0
    integers = _round_half_away(blocks * _inverse(scale))
    out = np.empty(len(blocks), dtype=[("scale", "<f2"), ("values", "i1", BLOCK)])
    out["scale"], out["values"] = scale[:, 0], integers
    return out.tobytes()


def quantize_q5_0(values: NDArray[np.float32]) -> bytes:
    """Return values in blocks of a float16 scale and 32 integers of 5 bits: value = scale * (integer - 16).

    The value that is largest in size gets the integer 0, so the scale has the opposite sign. The fifth bits of all 32
    come first, then the lower four of values 0 to 15 beside those of values 16 to 31.
    """
    blocks = values.reshape(-1, BLOCK)
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=1)[:, None], axis=1)
    scale = largest / -16.0
    integers = np.minimum(31, (blocks * _inverse(scale) + 16.5).astype(np.int8)).astype(np.uint8)
    high = (integers >> 4).astype(np.uint32) << np.arange(BLOCK, dtype=np.uint32)
    low = integers & 0x0F
    out = np.empty(len(blocks), dtype=[("scale", "<f2"), ("high", "<u4"), ("low", "u1", BLOCK // 2)])
    out["scale"], out["high"] = scale[:, 0], high.sum(axis=1, dtype=np.uint32)
    out["low"] = low[:, : BLOCK // 2] | (low[:, BLOCK // 2 :] << 4)
    return out.tobytes()


def _inverse(scale: NDArray[np.float32]) -> NDArray[np.float32]:
    inverse: NDArray[np.float32] = np.divide(1.0, scale, out=np.zeros_like(scale), where=scale != 0)
    return inverse


def _round_half_away(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Round as C's roundf does; numpy rounds halves to even."""
    rounded: NDArray[np.float32] = np.trunc(values + np.copysign(np.float32(0.5), values))
    return rounded


def _as_float32(values: NDArray[np.float32]) -> bytes:
    return values.astype("<f4").tobytes()


def _as_float16(values: NDArray[np.float32]) -> bytes:
    return values.astype("<f2").tobytes()


_ENCODERS: dict[str, Callable[[NDArray[np.float32]], bytes]] = {
    "float32": _as_float32,
    "float16": _as_float16,
    "q8_0": quantize_q8_0,
    "q5_0": quantize_q5_0,
}
GGML = ExportFormat(tool="whisper.cpp", dtypes=tuple(_FILE_TYPES), write=write_ggml)
