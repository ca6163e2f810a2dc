"""Settings of the command `export`."""

from dataclasses import dataclass

from whisper_shard.config.checks import MANY, check_range


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportConfig:
    """Write a model for faster-whisper, whisper.cpp, openai-whisper or sherpa-onnx, and compare their texts."""

    format: str = "hf"
    """hf: transformers 4 and 5; ct2: faster-whisper; ggml: whisper.cpp; openai: openai-whisper; onnx: sherpa-onnx."""
    quantize: str = ""
    """Number format of the weights, such as float16, int8 (ct2, onnx) or q5_0 (ggml); empty: the format's default."""
    check: tuple[str, ...] = ()
    """Dataset or recordings that the tool and this package transcribe, to compare their texts; empty: no comparison."""
    samples: int = 50
    """Compare this many utterances of the dataset, by a fixed shuffle; 0: all."""
    tolerance: float = 0.02
    """Refuse the export if the tool's texts differ from ours by more than this WER."""
    language: str = ""
    """Language token where the data has no column `language`; empty: en."""
    threads: int = 0
    """CPU threads; 0: all cores."""

    def __post_init__(self) -> None:
        """Validate."""
        check_range("--samples", self.samples, 0, MANY)
        check_range("--tolerance", self.tolerance, 0.0, 1.0)
        check_range("--threads", self.threads, 0, 4096)
