"""The demo corpus: real speech, the same for the same seed, broken where it says so."""

import csv
import subprocess
import sys

import av
import numpy as np
import pytest
import soundfile

from whisper_shard.demo.speech import NUMBERS, SUFFIXES, Synthesizer, Voice, draw_sentence, make_corpus
from whisper_shard.errors import EnvironmentFault


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    list(make_corpus(folder, num_utterances=8, seed=3))
    return folder


def rows_of(folder):
    with (folder / "corpus.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_every_format_is_there_and_holds_a_second_or_two_of_speech(corpus):
    rows = rows_of(corpus)[:8]
    assert {row["audios"].rsplit(".", 1)[1] for row in rows} == set(SUFFIXES)
    for row in rows:
        if row["audios"].endswith("m4a"):
            with av.open(str(corpus / row["audios"])) as container:
                seconds = float(container.duration) / av.time_base
        else:
            samples, rate = soundfile.read(corpus / row["audios"])
            seconds = len(samples) / rate
            assert np.sqrt(np.mean(samples**2)) > 0.01
        assert 0.8 < seconds < 4


def test_the_broken_ones_are_broken(corpus):
    broken = {row["audios"].removeprefix("audios/") for row in rows_of(corpus)[8:]}
    assert broken == {"absent.wav", "text.wav", "cut.flac", "silence.wav", "click.wav", "wordless.wav"}
    assert not (corpus / "audios/absent.wav").exists()
    with pytest.raises(soundfile.LibsndfileError):
        soundfile.read(corpus / "audios/text.wav")
    assert not soundfile.read(corpus / "audios/silence.wav")[0].any()


def test_the_same_seed_makes_the_same_corpus(tmp_path):
    script = "import sys, pathlib; from whisper_shard.demo.speech import make_corpus; "
    script += "list(make_corpus(pathlib.Path(sys.argv[1]), num_utterances=4, seed=3))"
    for run in ("first", "second"):
        subprocess.run([sys.executable, "-c", script, str(tmp_path / run)], check=True)
    for name in ("corpus.csv", "audios/00000.wav", "audios/00001.flac", "audios/00002.mp3"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes(), name


def test_sentences_follow_the_grammar():
    words = draw_sentence(np.random.default_rng(0)).lower().rstrip(".").split()
    assert len(words) == 5 and words[1] == "the" and words[4] in NUMBERS


def test_faster_speech_is_shorter():
    synthesizer = Synthesizer()
    lengths = [
        len(synthesizer.speak("seven green boxes", Voice(name="en", words_per_minute=rate, pitch=50)))
        for rate in (100, 200)
    ]
    assert lengths[1] < 0.7 * lengths[0]


def test_an_unknown_voice_is_named():
    with pytest.raises(EnvironmentFault, match="has no voice 'atlantis'"):
        Synthesizer().speak("hello", Voice(name="atlantis", words_per_minute=150, pitch=50))
