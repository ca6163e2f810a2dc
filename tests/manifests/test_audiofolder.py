import json

import pandas as pd
import pytest

from tests.manifests.published import make_audiofolder, make_classes
from tests.manifests.reading import notes_of, read_all, read_rows, touch, write
from whisper_shard.errors import ManifestError


def test_the_list_for_training_is_read_and_the_rest_is_named(tmp_path):
    corpus = make_audiofolder(tmp_path / "corpus")
    manifest, rows, rejections = read_all(corpus)
    assert (manifest.format, rejections) == ("audiofolder", [])
    assert [(row.source, row.transcript, row.extra) for row in rows] == [
        (f"clips/{i}.wav", f"Sentence {i}, from train", {"take": str(i)}) for i in range(3)
    ]
    assert rows[0].path == f"{corpus}/train/clips/0.wav"
    assert manifest.notes[-1] == f"test is not read; to evaluate on it: --eval-corpus {corpus}/test"
    assert [row.transcript for row in read_rows(corpus / "test")] == ["Sentence 0, from test"]


def test_lists_in_json_and_parquet(tmp_path):
    touch(tmp_path, "a.wav")
    line = {"file_name": "a.wav", "transcription": "Hello", "tags": ["x"]}
    write(tmp_path / "json/metadata.jsonl", json.dumps(line))
    (row,) = read_rows(tmp_path / "json")
    assert (row.source, row.transcript, row.extra) == ("a.wav", "Hello", {"tags": ["x"]})
    (tmp_path / "parquet").mkdir()
    pd.DataFrame([line]).to_parquet(tmp_path / "parquet/metadata.parquet")
    manifest, (row,), _ = read_all(tmp_path / "parquet")
    assert (manifest.format, row.source, row.extra) == ("audiofolder", "a.wav", {"tags": ["x"]})


def test_a_list_over_all_splits_says_so(tmp_path):
    corpus = write(tmp_path / "metadata.csv", "file_name,text\ntrain/a.wav,one\ntest/b.wav,two\n").parent
    touch(corpus, "train/a.wav", "test/b.wav")
    assert len(read_rows(corpus)) == 2
    assert notes_of(corpus)[-1] == "everything in its list is read, also what lies in test"


def test_folders_are_classes_only_when_asked(tmp_path):
    corpus = make_classes(tmp_path / "words")
    with pytest.raises(ManifestError, match=r"words: is a folder of recordings, and does not tell what is said"):
        read_rows(corpus)
    rows = read_rows(corpus, manifest_format="audiofolder")
    assert [(row.source, row.transcript) for row in rows] == [
        ("no_way/0.wav", "no way"),
        ("no_way/1.wav", "no way"),
        ("yes/0.wav", "yes"),
        ("yes/1.wav", "yes"),
    ]
    assert notes_of(corpus, manifest_format="audiofolder") == [
        "words has no list: the names of its 2 folders are the transcripts: 'no_way', 'yes'"
    ]
    touch(corpus, "stray.wav")
    _, _, (rejection,) = read_all(corpus, manifest_format="audiofolder")
    assert (rejection.source, rejection.reason) == ("stray.wav", "missing_transcript")


def test_folders_that_are_not_one(tmp_path):
    with pytest.raises(ManifestError, match=r"holds neither metadata.csv, metadata.jsonl nor folders with recordings"):
        read_rows(tmp_path, manifest_format="audiofolder")
    for name in ("de", "en"):
        write(tmp_path / name / "metadata.csv", "file_name,text\na.wav,one\n")
    with pytest.raises(ManifestError, match=r"holds several lists; name one: .*de/metadata.csv, .*en/metadata.csv"):
        read_rows(tmp_path)
