"""The tools that read exports, each behind one function: transcribe a waveform as the tool's users do.

Greedy decoding at temperature 0 without fall-back, so that a difference is one of the numbers, not of the settings. To
add a tool, write a class and name it in CONSUMERS.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from whisper_shard.errors import ConfigError
from whisper_shard.export import ggml, onnx, openai
from whisper_shard.model.whisper import LoadedWhisper
from whisper_shard.utterance import SAMPLE_RATE, Waveform


class Consumer(Protocol):
    """A tool with a model loaded."""

    package: str
    """Its name on the package index."""
    mel_padding: int | None
    """Frames of 0.0 after a clip's spectrogram, up to 30 s; None: the audio is padded with silence, as in Whisper."""
    keeps_suppress_rules: bool
    """Whether it never chooses the tokens in `suppress_tokens` of the model."""
    has_timestamps: bool
    """Whether it can decode with timestamps."""
    tokens_per_second: float | None
    """It ends a text at so many tokens for each second of the clip; None: it does not."""

    def transcribe(self, waveform: Waveform, *, language: str, timestamps: bool) -> str:
        """Return the text of up to 30 s at 16 kHz."""
        ...


class FasterWhisper:
    """faster-whisper, for ct2.

    Args:
        loaded: The model that was exported.
        folder: The export.
        threads: CPU threads.
    """

    package = "faster-whisper"
    mel_padding: int | None = 3000  # Source: pad_or_trim in faster_whisper/audio.py
    keeps_suppress_rules = True
    has_timestamps = True
    tokens_per_second: float | None = None

    def __init__(self, loaded: LoadedWhisper, folder: Path, threads: int) -> None:
        from faster_whisper import WhisperModel

        # A CPU without the number format of the file would warn at each load; `auto` takes the nearest that it has.
        self._model = WhisperModel(str(folder), device="cpu", compute_type="auto", cpu_threads=threads)
        self._suppressed = _suppressed(loaded)

    def transcribe(self, waveform: Waveform, *, language: str, timestamps: bool) -> str:
        """See `Consumer`."""
        segments, _ = self._model.transcribe(
            waveform, language=language, beam_size=1, temperature=0.0, without_timestamps=not timestamps,
            suppress_tokens=list(self._suppressed), condition_on_previous_text=False, no_speech_threshold=None,
            log_prob_threshold=None, compression_ratio_threshold=None,
        )  # fmt: skip
        return _join(segment.text for segment in segments)


class WhisperCpp:
    """pywhispercpp, the Python binding of whisper.cpp, for ggml.

    Args:
        loaded: The model that was exported.
        folder: The export.
        threads: CPU threads.
    """

    package = "pywhispercpp"
    mel_padding: int | None = None
    keeps_suppress_rules = True
    has_timestamps = True
    tokens_per_second: float | None = None

    def __init__(self, loaded: LoadedWhisper, folder: Path, threads: int) -> None:
        from pywhispercpp.model import Model

        self._model = Model(
            str(folder / ggml.FILE_NAME), redirect_whispercpp_logs_to=None, n_threads=threads, temperature_inc=0.0,
            print_progress=False, print_realtime=False, greedy={"best_of": 1}, no_speech_thold=1.0,
            logprob_thold=-1000.0, entropy_thold=0.0, suppress_nst=bool(_suppressed(loaded)),
        )  # fmt: skip

    def transcribe(self, waveform: Waveform, *, language: str, timestamps: bool) -> str:
        """See `Consumer`."""
        # whisper.cpp returns nothing for less than 1 s of audio, so a shorter clip is padded here, not there.
        padded = np.pad(waveform, (0, max(0, SAMPLE_RATE + SAMPLE_RATE // 10 - len(waveform))))
        segments = self._model.transcribe(padded, language=language, no_timestamps=not timestamps)
        return _join(segment.text for segment in segments)


class OpenaiWhisper:
    """openai-whisper, for openai.

    Args:
        loaded: The model that was exported.
        folder: The export.
        threads: CPU threads; torch has them already.
    """

    package = "openai-whisper"
    mel_padding: int | None = 3000  # its transcribe cuts the padded spectrogram to the clip, and pads that with 0.0
    keeps_suppress_rules = True
    has_timestamps = True
    tokens_per_second: float | None = None

    def __init__(self, loaded: LoadedWhisper, folder: Path, threads: int) -> None:
        import whisper

        del threads
        self._model = whisper.load_model(str(folder / openai.FILE_NAME), device="cpu")
        self._suppressed = _suppressed(loaded)

    def transcribe(self, waveform: Waveform, *, language: str, timestamps: bool) -> str:
        """See `Consumer`."""
        found: dict[str, Any] = self._model.transcribe(
            waveform, language=language, temperature=0.0, fp16=False, without_timestamps=not timestamps,
            suppress_tokens=list(self._suppressed), condition_on_previous_text=False, no_speech_threshold=None,
            logprob_threshold=None, compression_ratio_threshold=None,
        )  # fmt: skip
        return str(found["text"]).strip()


class SherpaOnnx:
    """sherpa-onnx, for onnx.

    Args:
        loaded: The model that was exported.
        folder: The export.
        threads: CPU threads.
    """

    package = "sherpa-onnx"
    mel_padding: int | None = 1000  # Source: offline-recognizer-whisper-impl.h
    keeps_suppress_rules = False
    has_timestamps = False
    tokens_per_second: float | None = 6.0  # Source: offline-whisper-greedy-search-decoder.cc

    def __init__(self, loaded: LoadedWhisper, folder: Path, threads: int) -> None:
        import sherpa_onnx

        self._is_multilingual = loaded.is_multilingual
        self._make = sherpa_onnx.OfflineRecognizer.from_whisper
        self._files = {
            "encoder": str(folder / onnx.ENCODER),
            "decoder": str(folder / onnx.DECODER),
            "tokens": str(folder / onnx.TOKENS),
        }
        self._threads = threads
        self._by_language: dict[str, Any] = {}

    def transcribe(self, waveform: Waveform, *, language: str, timestamps: bool) -> str:
        """See `Consumer`."""
        del timestamps
        language = language if self._is_multilingual else "en"
        if language not in self._by_language:
            self._by_language[language] = self._make(**self._files, language=language, num_threads=self._threads)
        recognizer = self._by_language[language]
        stream = recognizer.create_stream()
        stream.accept_waveform(SAMPLE_RATE, waveform)
        recognizer.decode_stream(stream)
        return str(stream.result.text).strip()


class Transformers:
    """transformers, for hf.

    Args:
        loaded: The model that was exported.
        folder: The export.
        threads: CPU threads; torch has them already.
    """

    package = "transformers"
    mel_padding: int | None = None
    keeps_suppress_rules = True
    has_timestamps = True
    tokens_per_second: float | None = None

    def __init__(self, loaded: LoadedWhisper, folder: Path, threads: int) -> None:
        import torch
        from transformers import WhisperForConditionalGeneration, WhisperProcessor

        del threads
        self._is_multilingual = loaded.is_multilingual
        self._model = WhisperForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
        self._processor = WhisperProcessor.from_pretrained(folder)

    def transcribe(self, waveform: Waveform, *, language: str, timestamps: bool) -> str:
        """See `Consumer`."""
        features = self._processor(waveform, sampling_rate=SAMPLE_RATE, return_tensors="pt").input_features
        prompt = {"language": language, "task": "transcribe"} if self._is_multilingual else {}
        with _errors_only():
            ids = self._model.generate(features, return_timestamps=timestamps, num_beams=1, do_sample=False, **prompt)
        return str(self._processor.batch_decode(ids, skip_special_tokens=True)[0]).strip()


@contextmanager
def _errors_only() -> Iterator[None]:
    """Let transformers log errors alone: it warns of arguments that it gives to itself."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


CONSUMERS: dict[str, Callable[[LoadedWhisper, Path, int], Consumer]] = {
    "hf": Transformers,
    "ct2": FasterWhisper,
    "ggml": WhisperCpp,
    "openai": OpenaiWhisper,
    "onnx": SherpaOnnx,
}
"""By format."""


def open_consumer(name: str, loaded: LoadedWhisper, folder: Path, threads: int) -> Consumer:
    """Load an export with the tool that reads it.

    Args:
        name: The format.
        loaded: The model that was exported.
        folder: The export.
        threads: CPU threads; 0: all cores of this process.

    Raises:
        ConfigError: The tool is not installed.
    """
    make = CONSUMERS[name]
    try:
        return make(loaded, folder, threads or len(os.sched_getaffinity(0)))
    except ImportError as error:
        package = getattr(make, "package", name)
        raise ConfigError(
            f"--check needs {package}, which reads format {name}: pip install -c constraints.txt {package}, or export "
            "without --check"
        ) from error


def _suppressed(loaded: LoadedWhisper) -> tuple[int, ...]:
    return tuple(loaded.model.generation_config.suppress_tokens or ())


def _join(texts: Any) -> str:
    return " ".join(text.strip() for text in texts).strip()
