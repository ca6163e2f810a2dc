"""Recordings with subtitles beside them."""

from itertools import islice

import pytest

from tests.manifests.published import make_subtitles
from tests.manifests.reading import notes_of, read_all, read_rows, touch, write
from whisper_shard.cli.main import run
from whisper_shard.config.stream import StreamConfig
from whisper_shard.dataset.index import open_dataset
from whisper_shard.stream.loader import open_loader

SRT = "1\n00:00:00,500 --> 00:00:01,500\nOne line\n\n2\n00:00:01,500 --> 00:00:02,500\nand a second\n"


def reasons(path, **settings):
    return [(rejection.source, rejection.reason) for rejection in read_all(path, **settings)[2]]


def test_cues_become_utterances_with_segments(tmp_path):
    touch(tmp_path, "talk.mp3")
    write(tmp_path / "talk.en.srt", SRT)
    (row,) = read_rows(tmp_path)
    assert (row.source, row.language, row.start_seconds, row.end_seconds) == ("talk.mp3", "en", 0.5, 2.5)
    assert row.transcript == "One line and a second"
    assert row.extra["segments"] == [
        {"start": 0.0, "end": 1.0, "text": "One line"}, {"start": 1.0, "end": 2.0, "text": "and a second"}
    ]  # fmt: skip


def test_an_utterance_has_the_text_before_it_as_its_prompt(tmp_path):
    touch(tmp_path, "a.mp3", "b.mp3")
    for name in ("a.srt", "b.srt"):
        write(tmp_path / name, SRT + "\n3\n00:00:12,000 --> 00:00:13,000\nThe end\n")
    assert [(row.transcript, row.extra.get("prompt")) for row in read_rows(tmp_path)] == 2 * [
        ("One line and a second", None), ("The end", "One line and a second")
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["talk.srt", "talk.mp3.srt", "Talk.v2.srt"])
def test_a_single_file(tmp_path, name):
    touch(tmp_path, "talk.mp3", "Talk.v2.wav")
    assert len(read_rows(write(tmp_path / name, SRT))) == 1


def test_what_has_no_counterpart_is_rejected(tmp_path):
    touch(tmp_path, "a.mp3", "b.wav", "c.wav")
    for name in ("a.srt", "b.de.srt", "b.en.srt", "d.srt"):
        write(tmp_path / name, SRT)
    write(tmp_path / "c.vtt", "WEBVTT\n")
    assert reasons(tmp_path) == [
        ("b.wav", "several_subtitles"), ("c.wav", "unreadable_subtitles"), ("", "missing_path")
    ]  # fmt: skip
    touch(tmp_path, "e.wav")
    assert ("e.wav", "missing_transcript") in reasons(tmp_path)


def test_bad_cues_are_rejected_one_by_one(tmp_path):
    touch(tmp_path, "a.mp3")
    write(
        tmp_path / "a.srt", SRT + "\n3\n00:00:03,000 --> 00:00:03,000\nNo time\n\n4\n00:00:04,000 --> 00:00:50,000\nX\n"
    )
    assert reasons(tmp_path) == [("a.mp3", "malformed_cue"), ("a.mp3", "cue_too_long")]
    assert len(read_rows(tmp_path)) == 1


def test_a_table_of_recordings_and_subtitles(tmp_path):
    touch(tmp_path, "audio/a.mp3", "audio/b.mp3")
    write(tmp_path / "text/a.srt", SRT)
    table = write(
        tmp_path / "list.csv", "audio,subtitles,speaker\naudio/a.mp3,text/a.srt,Ann\naudio/b.mp3,text/b.srt,Bob\n"
    )
    manifest, rows, rejections = read_all(table)
    assert manifest.format == "subtitles"
    assert (rows[0].speaker, rows[0].transcript) == ("Ann", "One line and a second")
    assert [rejection.reason for rejection in rejections] == ["unreadable_subtitles"]


def test_a_ctm_that_names_the_recordings(tmp_path):
    touch(tmp_path, "a.wav", "b.flac")
    write(tmp_path / "all.ctm", "a 1 0.5 0.5 hello\na 1 1.0 0.5 there\nb B 0 1 yes\n")
    rows = [(row.file or row.source, row.channel, row.transcript) for row in read_rows(tmp_path)]
    assert rows == [("a.wav", 0, "hello there"), ("b.flac", 1, "yes")]


def test_a_changed_subtitle_changes_the_digest(tmp_path):
    touch(tmp_path, "a.mp3")
    path = write(tmp_path / "a.srt", SRT)
    before = read_all(tmp_path)[0].digest()
    write(path, SRT.replace("One", "Any"))
    assert read_all(tmp_path)[0].digest() != before


def test_encodings_are_noted(tmp_path):
    touch(tmp_path, "a.mp3")
    write(tmp_path / "a.srt", SRT.replace("One", "Deja\xe0").encode("latin-1"))
    assert any("1 files of subtitles" in note and "Windows-1252" in note for note in notes_of(tmp_path))


def test_times_of_cues_reach_the_labels(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_subtitles(tmp_path / "talks")
    assert run(["prepare", "talks", "data", "--eval-fraction", "0", "--jobs", "1"]) == 0
    dataset = open_dataset(tmp_path / "data/train")
    loader = open_loader(dataset, StreamConfig(batch_size=4, workers=0))
    segments = {row[0].text: row for batch in islice(loader, 2) for row in batch.segments if row}
    first, second = segments["hello there"]
    assert second.text == "and welcome"
    assert 0 <= first.start_seconds < first.end_seconds <= 1.0 < second.start_seconds <= 1.1
    assert first.key == second.key
