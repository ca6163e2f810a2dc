"""Recordings without texts, and tables of such."""

import json

import pytest

from tests.manifests.reading import touch, write
from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.errors import ManifestError
from whisper_shard.manifests.formats import open_manifest
from whisper_shard.manifests.rows import as_rows

CUT = PrepareConfig(segment="vad")


def read(path, config=CUT):
    manifest = open_manifest(path, config)
    return manifest, [row for table in manifest.read() for row, _ in as_rows(table, folder=manifest.folder)]


def test_a_folder_is_read_with_its_subfolders(tmp_path):
    touch(tmp_path / "talks", "b.mp3", "a/1.WAV", "a/notes.txt")
    manifest, rows = read(tmp_path / "talks")
    assert [(row.source, row.transcript, row.path) for row in rows] == [
        ("b.mp3", "", f"{tmp_path}/talks/b.mp3"),
        ("a/1.WAV", "", f"{tmp_path}/talks/a/1.WAV"),
    ]
    assert (manifest.format, manifest.notes) == ("recordings", ("talks is 2 recordings without a text",))
    before = manifest.digest()
    touch(tmp_path / "talks", "c.wav")
    assert read(tmp_path / "talks")[0].digest() != before


def test_one_recording(tmp_path):
    touch(tmp_path, "talk.m4a", "other.m4a")
    manifest, (row,) = read(tmp_path / "talk.m4a")
    assert (row.source, manifest.notes) == ("talk.m4a", ("talk.m4a is 1 recording without a text",))


def test_a_list_that_is_not_read_is_named(tmp_path):
    touch(tmp_path, "a.wav")
    write(tmp_path / "texts.csv", "audio,text\na.wav,hello\n")
    manifest, _ = read(tmp_path)
    assert manifest.notes[-1] == "texts.csv is not read; name it instead of its folder if it has texts"
    with pytest.raises(ManifestError, match=r"does not tell what is said; did you mean .*texts\.csv\?"):
        open_manifest(tmp_path, PrepareConfig())


@pytest.mark.parametrize("name", ["", "talk.wav"])
def test_without_the_flag_it_is_named(tmp_path, name):
    touch(tmp_path, "talk.wav")
    with pytest.raises(ManifestError, match="does not tell what is said; without texts, --segment vad cuts"):
        open_manifest(tmp_path / name, PrepareConfig())


def test_a_folder_without_recordings(tmp_path):
    write(tmp_path / "readme.txt", "hello")
    with pytest.raises(ManifestError, match="is a folder in no layout that is known; it holds neither recordings"):
        open_manifest(tmp_path, CUT)
    with pytest.raises(ManifestError, match="holds no recording"):
        open_manifest(tmp_path, PrepareConfig(segment="vad", manifest_format="recordings"))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("list.csv", "path,title\na.wav,The first talk\nb.wav,The second one\n"),
        ("list.jsonl", "\n".join(json.dumps({"path": f"{x}.wav", "title": "A talk"}) for x in "ab")),
    ],
)
def test_a_table_needs_no_column_of_texts(tmp_path, name, content):
    touch(tmp_path, "a.wav", "b.wav")
    write(tmp_path / name, content)
    manifest, rows = read(tmp_path / name)
    assert [(row.source, row.transcript) for row in rows] == [("a.wav", ""), ("b.wav", "")]
    assert "title" in rows[0].extra
    assert "no column has a usual name of transcripts, so there are none; --text-column names one" in manifest.notes
    _, rows = read(tmp_path / name, PrepareConfig(segment="vad", text_column="title"))
    assert "talk" in rows[0].transcript


def test_a_table_without_texts_needs_the_flag(tmp_path):
    touch(tmp_path, "a.wav")
    write(tmp_path / "list.csv", "path,number\na.wav,1\nb.wav,2\n")
    with pytest.raises(ManifestError, match=r"no column for the transcript .*; without texts, --segment vad cuts"):
        open_manifest(tmp_path / "list.csv", PrepareConfig())


@pytest.mark.parametrize("heading", ["", "path\n"])
def test_a_list_of_paths(tmp_path, heading):
    touch(tmp_path, "clips/a.wav", "clips/b.wav")
    write(tmp_path / "list.txt", f"{heading}a.wav\n\n b.wav \n")
    manifest, rows = read(tmp_path / "list.txt")
    assert [(row.source, row.path) for row in rows] == [(f"{x}.wav", f"{tmp_path}/clips/{x}.wav") for x in "ab"]
    assert manifest.notes[0] == "list.txt is a list of recordings without a text"
    assert manifest.digest() == read(tmp_path / "list.txt")[0].digest()
    with pytest.raises(ManifestError, match=r"list\.txt: is a list of recordings, and does not tell what is said"):
        open_manifest(tmp_path / "list.txt", PrepareConfig())
