"""The same audio is found under other names, in other formats, and on both sides of the split."""

import shutil

import numpy as np
import soundfile

from tests.making import make_waveform
from tests.prepare.corpora import prepare, write_csv
from whisper_shard.prepare.duplicates import Duplicates
from whisper_shard.prepare.encode import hash_samples
from whisper_shard.prepare.events import Note


def notes_of(corpus, out, **settings):
    return [event.message for event in prepare(corpus, out, **settings) if isinstance(event, Note)]


def make(folder, *names):
    """Write recordings, all different, and a CSV of them."""
    for i, name in enumerate(names):
        soundfile.write(folder / name, make_waveform(1.2, seed=i), 16_000)


def test_equal_audio_is_found_and_named(tmp_path):
    make(tmp_path, "0.wav", "1.wav", "2.wav")
    shutil.copy(tmp_path / "1.wav", tmp_path / "copy.wav")
    samples, rate = soundfile.read(tmp_path / "1.wav", dtype="int16")
    soundfile.write(tmp_path / "other.flac", samples, rate)
    names = ("0.wav", "1.wav", "2.wav", "copy.wav", "other.flac")
    corpus = write_csv(tmp_path / "c.csv", [(name, f"text of {name}") for name in names])
    (note,) = [m for m in notes_of(corpus, tmp_path / "out", eval_fraction=0.0) if m.startswith("audio compared")]
    assert note.startswith("audio compared by hash: 2 of 5 utterances repeat another one: ")
    assert note.count("(train)") == 4


def test_audio_on_both_sides_counts_against_train(tmp_path):
    make(tmp_path, "0.wav", "1.wav", "2.wav")
    shutil.copy(tmp_path / "1.wav", tmp_path / "leak.wav")
    train = write_csv(tmp_path / "train.csv", [(f"{i}.wav", f"utterance {i}") for i in range(3)])
    evaluation = write_csv(tmp_path / "eval.csv", [("leak.wav", "utterance 1")])
    notes = notes_of(train, tmp_path / "out", eval_corpus=str(evaluation))
    assert notes[-2:] == [
        "audio compared by hash: 1 of 4 utterances repeats another one: 1.wav (train) as leak.wav (eval)",
        "1 utterance of train with the audio of one in eval, which `train` refuses: "
        "--duplicates drop removes them, or remove these rows from the manifest",
    ]


def test_what_was_checked_is_said_where_nothing_was_found():
    found = Duplicates(num_compared=1234, repeats=())
    assert list(found.describe()) == ["audio compared by hash: no two of 1,234 utterances have the same"]


def test_the_hash_is_of_samples():
    samples = np.arange(10, dtype=np.int16)
    assert hash_samples(samples) == hash_samples(samples.copy())
    assert hash_samples(samples) != hash_samples(samples + 1)
    assert len(hash_samples(samples)) == 32
