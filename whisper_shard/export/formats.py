"""All formats of `export`. To add one, write a module with an ExportFormat and name it in EXPORTS."""

from whisper_shard.export.ct2 import CT2
from whisper_shard.export.format import ExportFormat
from whisper_shard.export.ggml import GGML
from whisper_shard.export.hf import HF
from whisper_shard.export.onnx import ONNX
from whisper_shard.export.openai import OPENAI

EXPORTS: dict[str, ExportFormat] = {"hf": HF, "ct2": CT2, "ggml": GGML, "openai": OPENAI, "onnx": ONNX}
"""By the name that --format takes."""
