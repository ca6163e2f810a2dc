"""A small synthesized corpus, so that every command can be tried without a download.

eSpeak NG speaks short sentences of a small grammar in many voices, speeds and pitches. The recordings are wav, flac,
mp3 and m4a files; a few are broken on purpose, so that there are rejects. A Whisper with few and narrow layers learns
this corpus from random weights within minutes on two cores.
"""

import csv
import ctypes
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whisper_shard.errors import EnvironmentFault

VOICES = ("en", "en-us", "en-gb-scotland", "en-gb-x-rp", "en-029", "en-us-nyc")
"""Accents of English that eSpeak NG knows."""
VARIANTS = ("m1", "m3", "m7", "f2", "f4", "f5")
"""Voices that are combined with an accent: three male, three female."""
VERBS = ("open", "close", "paint", "find", "move")
COLOURS = ("red", "green", "blue", "white", "black")
THINGS = ("door", "box", "window", "table", "garden")
NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
SUFFIXES = ("wav", "flac", "mp3", "m4a")
# Constants of speak_lib.h: audio output mode, flags, position type, and parameter numbers.
_SYNCHRONOUS, _CHARACTERS_UTF8, _POSITION_CHARACTER = 2, 1, 1
_RATE, _PITCH, _RANGE = 1, 3, 4
NO_SPEAKER = "nobody"
"""Speaker of the broken recordings in the manifest."""
Row = tuple[str, str, str]
"""A row of the manifest: path, transcript, speaker."""
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


@dataclass(frozen=True, slots=True, kw_only=True)
class Voice:
    """How a sentence is spoken."""

    name: str
    """Accent and variant as eSpeak NG names them, such as ``en-us+f2``; also the speaker in the manifest."""
    words_per_minute: int
    """Speaking rate, 80 to 450."""
    pitch: int
    """Pitch on eSpeak NG's own scale, 0 to 99."""


class Synthesizer:
    """Text to speech with eSpeak NG. Make only one per process: the library keeps global state.

    Source: speak_lib.h of eSpeak NG 1.52.
    """

    def __init__(self) -> None:
        try:
            import espeakng_loader
        except ImportError as error:
            raise EnvironmentFault("the demo needs a speech synthesizer: pip install 'whisper-shard[demo]'") from error
        self._library = ctypes.cdll.LoadLibrary(espeakng_loader.get_library_path())
        path = str(espeakng_loader.get_data_path()).encode()
        self.sample_rate = int(self._library.espeak_Initialize(_SYNCHRONOUS, 0, path, 0))
        if self.sample_rate <= 0:
            raise EnvironmentFault(
                f"eSpeak NG does not start with its data in {path.decode()}: reinstall espeakng-loader"
            )
        self._pieces: list[NDArray[np.int16]] = []
        self._callback = _CALLBACK(self._receive)  # the library holds only a pointer, so keep the object alive
        self._library.espeak_SetSynthCallback(self._callback)

    def speak(self, text: str, voice: Voice) -> NDArray[np.int16]:
        """Return the samples of ``text``, mono int16 at ``sample_rate``."""
        self._pieces.clear()
        if self._library.espeak_SetVoiceByName(voice.name.encode()) != 0:
            raise EnvironmentFault(f"eSpeak NG has no voice {voice.name!r}: reinstall espeakng-loader")
        for parameter, value in ((_RATE, voice.words_per_minute), (_PITCH, voice.pitch), (_RANGE, 50)):
            self._library.espeak_SetParameter(parameter, value, 0)
        data = text.encode()
        self._library.espeak_Synth(
            data, len(data) + 1, 0, _POSITION_CHARACTER, 0, _CHARACTERS_UTF8, None, None
        )  # fmt: skip
        self._library.espeak_Synchronize()
        return np.concatenate(self._pieces) if self._pieces else np.empty(0, np.int16)

    def _receive(self, samples: Any, num_samples: int, _events: Any) -> int:
        if samples and num_samples:
            self._pieces.append(np.ctypeslib.as_array(samples, (num_samples,)).copy())
        return 0


def make_corpus(folder: Path, *, num_utterances: int, seed: int = 0) -> Iterator[Path]:
    """Write ``folder/corpus.csv`` and its recordings; yield the path of each recording.

    The last rows are broken on purpose: a missing file, a text file named wav, a truncated flac, silence, a click, and
    a transcript without a word.

    Args:
        folder: Created if missing.
        num_utterances: Number of intact recordings.
        seed: The same seed gives the same sentences and voices; in a new process also the same samples (eSpeak NG keeps
            the phase of its oscillators between sentences).

    Raises:
        EnvironmentFault: The synthesizer is not installed.
    """
    synthesizer = Synthesizer()
    (folder / "audios").mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    for row in chain(
        _write_intact(folder, synthesizer, num_utterances, np.random.default_rng(seed)),
        _write_broken(folder, synthesizer),
    ):
        rows.append(row)
        yield folder / row[0]
    with (folder / "corpus.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("audios", "transcription", "speaker"))
        writer.writerows(rows)


def _write_intact(
    folder: Path, synthesizer: Synthesizer, num_utterances: int, rng: np.random.Generator
) -> Iterator[Row]:
    for number in range(num_utterances):
        voice, text = draw_voice(rng), draw_sentence(rng)
        name = f"audios/{number:05d}.{SUFFIXES[number % len(SUFFIXES)]}"
        write_recording(folder / name, synthesizer.speak(text, voice), synthesizer.sample_rate)
        yield name, text, voice.name


def _write_broken(folder: Path, synthesizer: Synthesizer) -> Iterator[Row]:
    voice = Voice(name="en-us", words_per_minute=160, pitch=50)
    samples, rate = synthesizer.speak("This recording was cut off.", voice), synthesizer.sample_rate
    yield "audios/absent.wav", "this file is not there", NO_SPEAKER
    (folder / "audios/text.wav").write_text("This is not audio.\n")
    yield "audios/text.wav", "this file is text", NO_SPEAKER
    _write_truncated(folder / "audios/cut.flac", samples, rate)
    yield "audios/cut.flac", "this recording was cut off", NO_SPEAKER
    write_recording(folder / "audios/silence.wav", np.zeros(2 * rate, np.int16), rate)
    yield "audios/silence.wav", "nobody says anything here", NO_SPEAKER
    write_recording(folder / "audios/click.wav", samples[: rate // 10], rate)
    yield "audios/click.wav", "much too short", NO_SPEAKER
    write_recording(folder / "audios/wordless.wav", samples, rate)
    yield "audios/wordless.wav", "?!", NO_SPEAKER


def _write_truncated(path: Path, samples: NDArray[np.int16], sample_rate: int) -> None:
    """Write the first 40 bytes of a recording: its header, but no audio."""
    write_recording(path, samples, sample_rate)
    path.write_bytes(path.read_bytes()[:40])


def draw_sentence(rng: np.random.Generator) -> str:
    """Draw one of the 5 x 5 x 5 x 10 sentences such as ``Paint the red door seven.``."""
    verb, colour, thing, number = (str(rng.choice(words)) for words in (VERBS, COLOURS, THINGS, NUMBERS))
    return f"{verb.capitalize()} the {colour} {thing} {number}."


def draw_voice(rng: np.random.Generator) -> Voice:
    """Draw one of 36 voices, with a speaking rate and a pitch."""
    return Voice(
        name=f"{rng.choice(VOICES)}+{rng.choice(VARIANTS)}",
        words_per_minute=int(rng.integers(130, 210)),
        pitch=int(rng.integers(30, 70)),
    )


def write_recording(path: Path, samples: NDArray[np.int16], sample_rate: int) -> None:
    """Write mono int16 samples in the format that the suffix names: wav, flac, mp3 or m4a."""
    if path.suffix == ".m4a":
        _write_m4a(path, samples, sample_rate)
        return
    import soundfile

    soundfile.write(path, samples, sample_rate)


def _write_m4a(path: Path, samples: NDArray[np.int16], sample_rate: int) -> None:
    import av

    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=sample_rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None, :], format="s16", layout="mono")
        frame.sample_rate = sample_rate
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


RECIPE = """\
# Settings of the demo: a small Whisper learns a small grammar from random weights, on two cores.

[prepare]
min_seconds = 0.5
shard_mb = 8

[bench]
seconds = 1.0
max_workers = 2

[train]
max_steps = {steps}
batch_size = 32
lr = 1e-3               # for random weights; fine-tuning needs a hundredth of this
warmup = 0.12
precision = "bf16"
beyond = "nothing"      # a model with random weights learns sooner without silence behind the speech
full_share = 0.03125    # one of 32 utterances is padded to 30 s in every step
min_window_seconds = 2.0
margin_seconds = [0.2, 1.5]
eval_every = {eval_every}
eval_limit = 32
max_new_tokens = 24
patience = 0
workers = 1

[score]
precision = "bf16"
max_new_tokens = 24
"""


def write_recipe(path: Path, *, steps: int) -> Path:
    """Write the TOML file with the settings of all commands for the demo corpus."""
    path.write_text(RECIPE.format(steps=steps, eval_every=max(1, steps // 4)))
    return path
