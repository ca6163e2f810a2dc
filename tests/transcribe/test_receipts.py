import json

import pytest

from tests.transcribe.test_formats import TRANSCRIPT
from whisper_shard.errors import StateError
from whisper_shard.storage.location import parse_location
from whisper_shard.storage.object_store import ObjectStore
from whisper_shard.transcribe.receipts import OutputFolder, Record

RECORD = Record(source=[5, 7], settings={"task": "transcribe", "model": "abc"}, transcript=TRANSCRIPT, files={})


def folder(path, *formats):
    return OutputFolder(location=parse_location(path), formats=formats, store=ObjectStore())


def test_what_is_written_comes_back(tmp_path):
    output = folder(tmp_path / "out", "txt", "srt")
    assert output.read_record("deep/talk") is None
    output.check_free("deep/talk", None)
    files = output.write("deep/talk", RECORD)
    assert files == [str(tmp_path / "out" / "deep" / name) for name in ("talk.txt", "talk.srt")]
    record = output.read_record("deep/talk")
    assert record.transcript == TRANSCRIPT
    assert record.find_change([5, 7], RECORD.settings) == ""
    assert output.write_missing("deep/talk", record) == []
    output.check_free("deep/talk", record)


def test_another_format_and_a_missing_file_are_written_from_the_record(tmp_path):
    folder(tmp_path, "txt").write("talk", RECORD)
    output = folder(tmp_path, "txt", "vtt")
    (tmp_path / "talk.txt").unlink()
    assert output.write_missing("talk", output.read_record("talk")) == [
        str(tmp_path / "talk.txt"), str(tmp_path / "talk.vtt"),
    ]  # fmt: skip
    assert (tmp_path / "talk.vtt").read_text().startswith("WEBVTT")
    assert set(output.read_record("talk").files) == {"talk.txt", "talk.vtt"}


def test_what_changed_is_named():
    assert RECORD.find_change([5, 8], RECORD.settings) == "the recording has changed"
    assert RECORD.find_change([5, 7], {**RECORD.settings, "model": "x"}) == "another model"
    assert (
        RECORD.find_change([5, 7], {**RECORD.settings, "task": "translate"})
        == "other settings: task was 'transcribe', is 'translate'"
    )


def test_a_corrected_transcript_is_not_overwritten(tmp_path):
    output = folder(tmp_path, "txt")
    output.write("talk", RECORD)
    (tmp_path / "talk.txt").write_text("corrected by hand\n")
    with pytest.raises(StateError, match=r"talk\.txt was changed since it was written; move it away"):
        output.check_free("talk", output.read_record("talk"))
    assert output.write_missing("talk", output.read_record("talk")) == []


def test_a_foreign_file_is_not_overwritten(tmp_path):
    (tmp_path / "talk.txt").write_text("mine\n")
    with pytest.raises(StateError, match=r"talk\.txt is there already; move it away, or choose another --output"):
        folder(tmp_path, "txt").check_free("talk", None)


@pytest.mark.parametrize("content", ["", "{", "[]", json.dumps({"version": 2}), json.dumps({"version": 1})])
def test_a_record_that_cannot_be_read_is_none(tmp_path, content):
    output = folder(tmp_path, "txt")
    output.write("talk", RECORD)
    (tmp_path / ".transcribe" / "talk.json").write_text(content)
    assert output.read_record("talk") is None
