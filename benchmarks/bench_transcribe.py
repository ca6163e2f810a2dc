"""Long recordings by `transcribe` against the pipeline of transformers: time on one core, and their texts.

    python -m benchmarks.bench_transcribe --model whisper-base/ --digits spoken-digits/test.csv

Both transcribe the same recordings of some minutes in float32 with the same settings: recorded digits with pauses, and
synthesized sentences, one after the other. *greedy* has Whisper's thresholds of probability and silence and never draws
tokens (temperature 0); *fall-back* has Whisper's temperatures, too. *plain* has no thresholds at all: the default of
the pipeline, but for its five beams, here one. The compression ratio, which the two define differently, is not used.
Decoding of files is not measured: both get waveforms, and compute spectrograms within the measured time.

The two are measured alternately in one process on one thread, in CPU seconds, since other programs may run at the same
time.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.machine import write_result
from benchmarks.speech import read_digits, speak_sentences
from whisper_shard.inference.fallback import TEMPERATURES, FallbackRules
from whisper_shard.inference.long_form import HeardRecording, LongFormSettings, LongFormTranscriber
from whisper_shard.inference.spectrogram import SpectrogramBuilder
from whisper_shard.model.log_mel import LogMel
from whisper_shard.model.whisper import LoadedWhisper, load_whisper
from whisper_shard.score.wer import score_texts
from whisper_shard.utterance import SAMPLE_RATE, Waveform

MAX_NEW_TOKENS = 224
GREEDY = LongFormSettings(
    language="en",
    fallback=FallbackRules(temperatures=(0.0,), max_compression_ratio=None),
    max_new_tokens=MAX_NEW_TOKENS,
)
MODES = {
    "plain": replace(GREEDY, fallback=replace(GREEDY.fallback, min_avg_logprob=None, max_no_speech=None)),
    "greedy": GREEDY,
    "fall-back": replace(GREEDY, fallback=replace(GREEDY.fallback, temperatures=TEMPERATURES)),
}


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One recording by one program."""

    cpu_seconds: float
    text: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--digits", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--modes", nargs="+", default=["greedy", "fall-back"], choices=list(MODES))
    parser.add_argument("--turns", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(1)
    loaded = load_whisper(given.model)
    loaded.model.eval()
    recordings = dict(make_recordings(given.digits, given.minutes * 60))
    rows = [
        compare(loaded, name, waveform, mode, given.turns)
        for mode in given.modes
        for name, waveform in recordings.items()
    ]
    chosen = "" if given.modes == ["greedy", "fall-back"] else "-".join(["", *given.modes])
    flags = f" --modes {' '.join(given.modes)}" if chosen else ""
    arguments = f"--model whisper-base/ --digits spoken-digits/test.csv --turns {given.turns}{flags}"
    command = f"python -m benchmarks.bench_transcribe {arguments}"
    write_result(f"transcribe{chosen}", command, rows, "torch", "transformers")


def make_recordings(digits: Path, seconds: float) -> Iterator[tuple[str, Waveform]]:
    """Yield recordings of this length: digits with pauses of 0.4 to 1.4 s, sentences with pauses of 0.2 to 0.6 s."""
    rng = np.random.default_rng(0)
    spoken = read_digits(digits, 300)
    yield "digits", join((each.waveform for each in spoken), seconds, pauses=(0.4, 1.4), rng=rng)
    sentences = speak_sentences(200, shortest=2.0, longest=12.0, seed=1)
    yield "sentences", join((each.waveform for each in sentences), seconds, pauses=(0.2, 0.6), rng=rng)


def join(
    waveforms: Iterator[Waveform], seconds: float, *, pauses: tuple[float, float], rng: np.random.Generator
) -> Waveform:
    parts, missing = [], round(seconds * SAMPLE_RATE)
    for waveform in waveforms:
        pause = np.zeros(round(rng.uniform(*pauses) * SAMPLE_RATE), np.float32)
        parts += [waveform.astype(np.float32), pause]
        missing -= len(waveform) + len(pause)
        if missing <= 0:
            return np.concatenate(parts)[: round(seconds * SAMPLE_RATE)]
    raise SystemExit(f"the corpus is {missing / SAMPLE_RATE:.0f} s too short")


def compare(loaded: LoadedWhisper, name: str, waveform: Waveform, mode: str, turns: int) -> dict[str, Any]:
    settings = MODES[mode]
    programs: dict[str, Callable[[], str]] = {
        "ours": lambda: transcribe(loaded, waveform, settings),
        "theirs": lambda: run_pipeline(loaded, waveform, settings),
    }
    best: dict[str, Turn] = {}
    for _ in range(turns):
        for who, program in programs.items():
            begin = time.process_time()
            text = program()
            turn = Turn(cpu_seconds=time.process_time() - begin, text=text)
            if who not in best or turn.cpu_seconds < best[who].cpu_seconds:
                best[who] = turn
    ours, theirs = best["ours"], best["theirs"]
    minutes = len(waveform) / SAMPLE_RATE / 60
    row = {
        "recording": name,
        "mode": mode,
        "minutes": minutes,
        "cpu_seconds_per_minute": round(ours.cpu_seconds / minutes, 2),
        "cpu_seconds_per_minute_transformers": round(theirs.cpu_seconds / minutes, 2),
        "times_as_fast": round(theirs.cpu_seconds / ours.cpu_seconds, 2),
        "wer_between": score_texts([theirs.text], [ours.text], keys=["all"], languages=["en"], form="basic").wer,
        "is_equal": ours.text == theirs.text,
        "num_words": len(ours.text.split()),
    }
    print(row, flush=True)
    return row


def transcribe(loaded: LoadedWhisper, waveform: Waveform, settings: LongFormSettings) -> str:
    builder = SpectrogramBuilder(LogMel(loaded.n_mels))
    builder.add(waveform)
    recording = HeardRecording(name="recording", spectrogram=builder.finish())
    results = LongFormTranscriber(loaded, settings).transcribe([recording], batch=1)
    return "".join(segment.text for result in results for segment in result.segments).strip()


def run_pipeline(loaded: LoadedWhisper, waveform: Waveform, settings: LongFormSettings) -> str:
    from transformers import pipeline

    rules = settings.fallback
    transcriber = pipeline(
        "automatic-speech-recognition",
        model=loaded.model,
        tokenizer=loaded.tokenizer,
        feature_extractor=loaded.processor.feature_extractor,
        device=loaded.model.device,
    )
    found = transcriber(
        {"raw": waveform, "sampling_rate": SAMPLE_RATE},
        return_timestamps=True,
        generate_kwargs={
            "language": "en",
            "task": "transcribe",
            "max_new_tokens": settings.max_new_tokens,
            "temperature": rules.temperatures,
            "logprob_threshold": rules.min_avg_logprob,
            "no_speech_threshold": rules.max_no_speech,
            "condition_on_prev_tokens": False,
            "num_beams": 1,  # the pipeline's own default is 5
        },
    )
    text: str = found["text"]
    return text.strip()


if __name__ == "__main__":
    main()
