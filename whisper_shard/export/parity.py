"""Does the tool that reads an export transcribe the same as the model here, in the same windows?

Tools see different windows: transformers and whisper.cpp pad the audio with silence to 30 s; openai-whisper and
faster-whisper pad the spectrogram with 0.0, which is louder than silence, and sherpa-onnx with 10 s of that. So the
model is decoded here in the tool's own window for the comparison, and in 30 s of padded audio, to tell what that window
costs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from whisper_shard.export.consumers import Consumer
from whisper_shard.export.samples import Sample
from whisper_shard.inference.greedy import SuppressRules, greedy_decode
from whisper_shard.model.forward import encode
from whisper_shard.model.labels import Labeler
from whisper_shard.model.log_mel import LogMel
from whisper_shard.model.whisper import LoadedWhisper
from whisper_shard.model.window import MAX_FRAMES, fit_window
from whisper_shard.score.wer import Score, score_texts
from whisper_shard.text.languages import whisper_language
from whisper_shard.utterance import FRAMES_PER_SECOND, HOP_LENGTH, MAX_SAMPLES, N_FFT

MAX_NEW_TOKENS = 224
"""Half the decoder's positions, at which the tools end a text, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """An utterance that the tool transcribes differently."""

    key: str
    """Its name."""
    timestamps: bool
    """Whether the tool decoded with timestamps."""
    ours: str
    """Text of the model here, in the tool's window."""
    theirs: str
    """Text of the tool."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """A model and its export on the same recordings."""

    package: str
    """The tool."""
    num_samples: int
    """Recordings compared."""
    disagreement: float
    """WER of the tool's texts against ours in the tool's window, without timestamps."""
    disagreement_timestamps: float | None
    """The same where the tool decodes with timestamps, ours without; None: it does not."""
    wer_30s: float | None
    """WER of the model here in 30 s of padded audio; None: there are no references."""
    wer_window: float | None
    """WER of the model here in the tool's window."""
    wer_tool: float | None
    """WER of the tool."""
    wer_tool_timestamps: float | None
    """WER of the tool, decoding with timestamps."""
    num_cut: int
    """Texts of the model here that are longer than the tool allows for their clip; it cuts them, and so they were."""
    differences: tuple[Difference, ...]
    """Utterances with different texts, in form `basic`."""


def compare(
    loaded: LoadedWhisper,
    consumer: Consumer,
    samples: Sequence[Sample],
    *,
    language: str = "",
    progress: Callable[[int, int], None],
) -> Parity:
    """Transcribe recordings with a model and with the tool that has its export.

    Args:
        loaded: The model, on the CPU.
        consumer: The tool.
        samples: The recordings.
        language: For recordings without one; empty: en.
        progress: Called with the number of recordings done, and of all.

    Raises:
        ConfigError: A language is unknown.
    """
    here = _Here(loaded, language)
    rows: dict[str, list[str]] = {"30s": [], "window": [], "tool": [], "timed": []}
    languages = [whisper_language(sample.language or language or "en") for sample in samples]
    num_cut = 0
    for number, (sample, code) in enumerate(zip(samples, languages, strict=True), 1):
        rows["30s"].append(here.transcribe(sample))
        text, is_cut = here.transcribe_like(consumer, sample)
        rows["window"].append(text)
        num_cut += is_cut
        rows["tool"].append(consumer.transcribe(sample.waveform, language=code, timestamps=False))
        if consumer.has_timestamps:
            rows["timed"].append(consumer.transcribe(sample.waveform, language=code, timestamps=True))
        progress(number, len(samples))
    return _summarize(consumer, samples, languages, rows, num_cut)


def _summarize(
    consumer: Consumer, samples: Sequence[Sample], languages: Sequence[str], rows: dict[str, list[str]], num_cut: int
) -> Parity:
    plain = score_texts(rows["window"], rows["tool"], languages=languages)
    timed = score_texts(rows["window"], rows["timed"], languages=languages) if rows["timed"] else None
    references = [sample.reference for sample in samples if sample.reference is not None]
    is_scored = len(references) == len(samples)
    wers = {
        name: score_texts(references, texts, languages=languages).wer if is_scored and texts else None
        for name, texts in rows.items()
    }
    return Parity(
        package=consumer.package,
        num_samples=len(samples),
        disagreement=plain.wer,
        disagreement_timestamps=timed.wer if timed else None,
        wer_30s=wers["30s"],
        wer_window=wers["window"],
        wer_tool=wers["tool"],
        wer_tool_timestamps=wers["timed"],
        num_cut=num_cut,
        differences=tuple(
            Difference(key=samples[i].key, timestamps=name == "timed", ours=rows["window"][i], theirs=rows[name][i])
            for name, score in (("tool", plain), ("timed", timed))
            for i in _differing(score)
        ),
    )


def _differing(score: Score | None) -> list[int]:
    """Return the numbers of utterances whose texts differ in the form that is scored."""
    utterances = score.utterances if score else ()
    return sorted(int(row.key) for row in utterances if row.reference != row.hypothesis)


class _Here:
    """Decodes recordings one by one, in any window."""

    def __init__(self, loaded: LoadedWhisper, language: str) -> None:
        self._model = loaded.model.eval()
        self._labeler = Labeler(loaded.tokenizer, language, is_multilingual=loaded.is_multilingual)
        self._log_mel = LogMel(loaded.n_mels)
        self._rules = SuppressRules.of(self._model)

    def transcribe(self, sample: Sample) -> str:
        """Return the text in 30 s of audio padded with silence."""
        return self._labeler.decode(self._decode(sample, None, self._rules))

    def transcribe_like(self, consumer: Consumer, sample: Sample) -> tuple[str, bool]:
        """Return the text in a tool's window, as long as the tool allows, and whether that cuts it."""
        rules = self._rules if consumer.keeps_suppress_rules else SuppressRules()
        tokens = self._decode(sample, consumer.mel_padding, rules)
        rate, num_hops = consumer.tokens_per_second, len(sample.waveform) // HOP_LENGTH
        limit = MAX_NEW_TOKENS if rate is None else int(num_hops / FRAMES_PER_SECOND * rate)
        return self._labeler.decode(tokens[:limit]), len(tokens) > limit

    @torch.inference_mode()
    def _decode(self, sample: Sample, mel_padding: int | None, rules: SuppressRules) -> tuple[int, ...]:
        states = encode(self._model, self._window(sample, mel_padding))
        prefix = self._labeler.prefix_batch(1, languages=[sample.language])
        cap = min(MAX_NEW_TOKENS, self._labeler.max_tokens - prefix.shape[1])
        return greedy_decode(self._model, states, prefix, max_new_tokens=cap, rules=rules).token_ids[0]

    def _window(self, sample: Sample, mel_padding: int | None) -> Tensor:
        waveform = torch.from_numpy(sample.waveform)[None]
        mel: Tensor
        if mel_padding is None:
            mel = self._log_mel(fit_window(waveform, MAX_SAMPLES))
            return mel
        # The tools that pad the spectrogram keep as many frames as the clip has hops, scaled by their own maximum.
        num_frames = min(waveform.shape[1] // HOP_LENGTH, MAX_FRAMES)
        mel = self._log_mel(fit_window(waveform, max(waveform.shape[1], N_FFT)))[..., :num_frames]
        frames = min(mel.shape[-1] + mel_padding, MAX_FRAMES)
        return functional.pad(mel, (0, frames - frames % 2 - mel.shape[-1]))
