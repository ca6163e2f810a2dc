"""Two corpora for training benchmarks: recorded spoken digits, and synthesized sentences."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from whisper_shard.audio.members import encode_npy
from whisper_shard.audio.samples import to_int16
from whisper_shard.dataset.description import ShardInfo
from whisper_shard.dataset.index import Dataset, open_dataset
from whisper_shard.dataset.schema import index_table
from whisper_shard.dataset.shard import ShardWriter
from whisper_shard.dataset.writer import write_dataset
from whisper_shard.demo.speech import VARIANTS, VOICES, Synthesizer, Voice
from whisper_shard.prepare.waveform import normalize_peak, trim_silence
from whisper_shard.storage.atomic import atomic_file
from whisper_shard.utterance import SAMPLE_RATE

SUBJECTS = (
    "the harbour master", "my younger sister", "an old carpenter", "the weather service", "a visiting professor",
    "the night train", "our neighbour Margaret", "the village council", "captain Henderson", "a careful gardener",
    "the museum in Cardiff", "the second violinist", "doctor Whitfield", "a group of students", "the baker's daughter",
    "the committee", "a retired engineer", "the ferry to Dover", "Elizabeth Monroe", "the editor of the journal",
)  # fmt: skip
VERBS = (
    "announced", "repaired", "carried", "described", "discovered", "borrowed", "delivered", "examined", "forgot",
    "measured", "noticed", "ordered", "painted", "photographed", "refused", "remembered", "returned", "sketched",
    "translated", "collected",
)  # fmt: skip
OBJECTS = (
    "a heavy wooden crate", "the broken telescope", "seventeen blue envelopes", "the history of the bridge",
    "an unusual piece of amber", "the results of the survey", "a bicycle with yellow wheels", "the missing chapter",
    "three baskets of pears", "a map of the northern islands", "the price of copper", "an enormous grey umbrella",
    "the recipe for ginger bread", "a letter from Vienna", "the oldest clock in the building", "forty metres of rope",
    "a portrait of the queen", "the keys to the cellar", "some rather expensive cheese", "the rules of the game",
)  # fmt: skip
PLACES = (
    "before the storm reached the coast", "in the corner of the library", "on the last Thursday of October",
    "without telling anybody", "while the others were asleep", "near the entrance of the tunnel",
    "for the third time this year", "at half past eleven", "with surprising enthusiasm", "in spite of the rain",
    "along the edge of the river", "as soon as the shops had closed", "to everyone's great relief",
    "between two appointments", "under the railway arches", "shortly after the concert",
)  # fmt: skip
LINKS = ("and later", "because", "although", "and then", "so that", "while")


@dataclass(frozen=True, kw_only=True)
class Spoken:
    """One utterance of a benchmark corpus."""

    key: str
    waveform: NDArray[np.float32]
    text: str
    speaker: str


def speak_sentences(num_utterances: int, *, shortest: float, longest: float, seed: int) -> Iterator[Spoken]:
    """Yield synthesized sentences of a small grammar in many voices, between two lengths in seconds."""
    rng, synthesizer, made = np.random.default_rng(seed), Synthesizer(), 0
    while made < num_utterances:
        text = draw_text(rng)
        voice = Voice(
            name=f"{rng.choice(VOICES)}+{rng.choice(VARIANTS)}",
            words_per_minute=int(rng.integers(120, 240)),
            pitch=int(rng.integers(20, 80)),
        )
        samples = synthesizer.speak(text, voice).astype(np.float32) / 32768
        waveform = soxr.resample(samples, synthesizer.sample_rate, SAMPLE_RATE)
        waveform = normalize_peak(trim_silence(waveform, trim_db=30.0), 1.0)
        noise = rng.uniform(0.001, 0.03)
        waveform = (waveform + noise * rng.standard_normal(len(waveform))).astype(np.float32)
        if shortest <= len(waveform) / SAMPLE_RATE <= longest:
            yield Spoken(key=f"read{seed}-{made:05d}", waveform=waveform, text=text, speaker=voice.name)
            made += 1


def draw_text(rng: np.random.Generator) -> str:
    """Return one to three clauses in lower case without punctuation."""
    clauses = [" ".join(str(rng.choice(part)) for part in (SUBJECTS, VERBS, OBJECTS, PLACES)) for _ in range(3)]
    count = int(rng.integers(1, 4))
    text = clauses[0]
    for clause in clauses[1:count]:
        text = f"{text} {rng.choice(LINKS)} {clause}"
    return text.lower().replace("'", "")


def read_digits(table: Path, num_utterances: int, *, seed: int = 0) -> Iterator[Spoken]:
    """Yield recordings of a CSV ``audios,transcription,speaker``, drawn at random without repetition."""
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    order = np.random.default_rng(seed).permutation(len(rows))[: num_utterances or None]
    for row in (rows[i] for i in order):
        samples, sample_rate = soundfile.read(table.parent / row["audios"], dtype="float32")
        waveform = normalize_peak(soxr.resample(samples, sample_rate, SAMPLE_RATE), 1.0)
        name = f"{table.stem}-{Path(row['audios']).stem}"
        yield Spoken(key=name, waveform=waveform, text=row["transcription"], speaker=row["speaker"])


def write_speech(folder: Path, utterances: Iterator[Spoken], *, per_shard: int = 500) -> Dataset:
    """Write a dataset with the package's own writers, or open it if it exists."""
    if (folder / "dataset.json").is_file():
        return open_dataset(folder)
    (folder / "shards").mkdir(parents=True, exist_ok=True)
    spoken, shards, tables = list(utterances), [], []
    for shard, start in enumerate(range(0, len(spoken), per_shard)):
        name = f"shards/{shard:06d}.tar"
        with atomic_file(folder / name) as file:
            writer = ShardWriter(file, shard=shard)
            for one in spoken[start : start + per_shard]:
                record = {"text": one.text, "speaker": one.speaker, "source": one.key, "language": "en"}
                audio, size = encode_npy(to_int16(one.waveform)), len(one.waveform)
                writer.add(key=one.key, audio=audio, suffix="npy", num_samples=size, record=record)
            writer.close()
        tables.append(index_table(writer.rows))
        size = len(writer.rows)
        shards.append(ShardInfo(name=name, num_bytes=file.num_bytes, sha256=file.sha256, num_utterances=size))
    write_dataset(folder, shards=shards, tables=tables, meta={})
    return open_dataset(folder)
