import pytest
import soundfile

from tests.making import make_waveform
from tests.prepare.corpora import prepare, write_csv
from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.errors import ConfigError
from whisper_shard.prepare.events import Note
from whisper_shard.prepare.make_plan import open_manifests
from whisper_shard.prepare.split import describe_split
from whisper_shard.prepare.spool import spool_manifest
from whisper_shard.storage.object_store import ObjectStore

HEADER = ("audios", "transcription", "speaker", "room")


@pytest.fixture
def corpus(tmp_path):
    rows = [(f"{i}.wav", f"utterance number {i}", f"s{i % 8}", f"r{i % 5}") for i in range(40)]
    return write_csv(tmp_path / "corpus.csv", rows, HEADER)


def describe(corpus, tmp_path, **settings):
    config = PrepareConfig(**settings)
    manifests = open_manifests(corpus, config, copies=tmp_path, store=ObjectStore())
    spools = {name: spool_manifest(manifest, tmp_path / name, config) for name, manifest in manifests.items()}
    return list(describe_split(spools, asked=config.eval_fraction))


def test_speakers_on_both_sides_are_counted(corpus, tmp_path):
    assert describe(corpus, tmp_path) == [
        "the evaluation set has 4 of 40 rows, 10.0% (asked for: 10.0%)",
        "speakers: 8 in train, 3 in eval, 3 in both; --split-by speaker keeps them apart",
        "recordings: 36 in train, 4 in eval, 0 in both",
    ]


def test_the_fraction_that_whole_speakers_allow_is_shown(corpus, tmp_path):
    assert describe(corpus, tmp_path, split_by="speaker")[:2] == [
        "the evaluation set has 5 of 40 rows, 12.5% (asked for: 10.0%)",
        "speakers: 7 in train, 1 in eval, 0 in both",
    ]


def test_a_column_that_is_carried_along_may_split(corpus, tmp_path):
    size, *_ = describe(corpus, tmp_path, split_by="room")
    assert size == "the evaluation set has 8 of 40 rows, 20.0% (asked for: 10.0%)"


def test_a_second_manifest_is_compared(corpus, tmp_path):
    rows = [("1.wav", "again", "s1", "r1"), ("x.wav", "other", "new", "r1")]
    other = write_csv(tmp_path / "eval.csv", rows, HEADER)
    assert describe(corpus, tmp_path, eval_corpus=str(other)) == [
        "speakers: 8 in train, 2 in eval, 1 in both",
        "recordings: 40 in train, 2 in eval, 1 in both",
    ]
    with pytest.raises(ConfigError, match=r"--split-by speaker: with --eval-corpus nothing is split; give one of the"):
        PrepareConfig(eval_corpus="eval.csv", split_by="speaker")


def test_without_an_evaluation_set_nothing_is_said(corpus, tmp_path):
    assert describe(corpus, tmp_path, eval_fraction=0.0) == []


def test_preparation_shows_the_split_and_what_becomes_of_texts(tmp_path):
    rows = []
    for i in range(6):
        soundfile.write(tmp_path / f"{i}.wav", make_waveform(1.2, seed=i), 16_000)
        rows.append((f"{i}.wav", f"For ${i}.50 on 3/4!", f"s{i // 2}", "r"))
    corpus = write_csv(tmp_path / "corpus.csv", rows, HEADER)
    events = prepare(corpus, tmp_path / "out", eval_fraction=0.3, split_by="speaker")
    notes = [event.message for event in events if isinstance(event, Note)]
    assert "the evaluation set has 2 of 6 rows, 33.3% (asked for: 30.0%)" in notes
    assert "speakers: 2 in train, 1 in eval, 0 in both" in notes
    assert "text (basic): 'For $0.50 on 3/4!' -> 'for 050 on 34'" in notes
    assert sum(note.startswith("text (basic)") for note in notes) == 3
    assert notes[-2].startswith("6 of 6 sampled transcripts lose digits' signs or symbols that are read aloud")
    assert notes[-2].endswith("--text-style written keeps them")
