import json
import tracemalloc

import pytest

from tests.manifests.reading import notes_of, read_all, read_rows, touch, write
from whisper_shard.errors import ManifestError
from whisper_shard.manifests import json as manifests
from whisper_shard.manifests.json import BadJson, read_values

NEMO = """{"audio_filepath": "path/to/audio1.wav", "duration": 3.45, "text": "this is a nemo tutorial"}
{"audio_filepath": "path/to/audio1.wav", "offset": 3.45, "duration": 1.45, "text": "same audio file but using offset"}
{"audio_filepath": "path/to/audio2.wav", "duration": 3.45, "text": "third transcript in this example"}
"""
"""Source: the example of nvidia.dali.fn.readers.nemo_asr."""


def test_manifest_of_nemo(tmp_path):
    rows = read_rows(write(tmp_path / "train_manifest.json", NEMO))
    assert [(row.row, row.source, row.transcript) for row in rows] == [
        (0, "path/to/audio1.wav", "this is a nemo tutorial"),
        (1, "path/to/audio1.wav", "same audio file but using offset"),
        (2, "path/to/audio2.wav", "third transcript in this example"),
    ]
    assert [(row.start_seconds, row.end_seconds, row.duration_seconds) for row in rows] == [
        (None, None, 3.45),
        (3.45, pytest.approx(4.9), None),
        (None, None, 3.45),
    ]
    assert [row.extra for row in rows] == [{"duration": 3.45}, {"duration": 1.45}, {"duration": 3.45}]
    assert notes_of(tmp_path / "train_manifest.json") == [
        "train_manifest.json is JSON: audio paths from 'audio_filepath', transcripts from 'text', starts from "
        "'offset', durations from 'duration'"
    ]


def test_manifest_of_canary(tmp_path):
    line = {"audio_filepath": "a.wav", "text": "hello world", "duration": 3.5, "source_lang": "en", "task": "asr"}
    line |= {"target_lang": "en", "pnc": "yes"}
    (row,) = read_rows(write(tmp_path / "m.json", json.dumps(line)))
    assert (row.language, row.task) == ("en", "transcribe")
    assert row.extra == {"duration": 3.5, "target_lang": "en", "pnc": "yes"}


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("block", [1 << 20, 5])
@pytest.mark.parametrize("is_array", [True, False])
def test_arrays_and_objects_over_several_lines(tmp_path, monkeypatch, indent, block, is_array):
    monkeypatch.setattr(manifests, "_BLOCK_CHARS", block)
    objects = [{"audio": f"{i}.wav", "text": f"Text, {{{i}}} [\u00fc]", "tags": [i, {"a": "]"}]} for i in range(20)]
    text = json.dumps(objects, indent=indent, ensure_ascii=False)
    if not is_array:
        text = "\n".join(json.dumps(value, indent=indent, ensure_ascii=False) for value in objects)
    rows = read_rows(write(tmp_path / "m.json", f"\ufeff\n {text}\n\n"))
    assert [(row.row, row.source, row.transcript) for row in rows] == [
        (i, f"{i}.wav", f"Text, {{{i}}} [\u00fc]") for i in range(20)
    ]
    assert rows[7].extra == {"tags": [7, {"a": "]"}]}


def test_lines_that_cannot_be_rows_keep_their_number_and_say_why(tmp_path):
    lines = ['{"audio": "a.wav", "text": "one"}', '{"audio": "a.wav", "te', '["a.wav", "two"]', "", '{"text": "three"}']
    lines += ['{"audio": "b.wav"}', '{"audio": ["c.wav", "d.wav"], "text": "four"}', '{"audio": "e.wav", "text": 5}']
    lines += ['{"audio": "e.wav", "text": {"en": "six"}}']
    _, rows, rejections = read_all(write(tmp_path / "m.jsonl", "\n".join(lines)))
    assert [row.row for row in rows] == list(range(8))
    assert rows[6].transcript == "5"
    assert [(r.row, r.reason) for r in rejections] == [
        (1, "malformed_row"),
        (2, "malformed_row"),
        (3, "missing_path"),
        (4, "missing_transcript"),
        (5, "missing_path"),
        (7, "missing_transcript"),
    ]
    assert "no JSON: Unterminated string" in rejections[0].detail
    assert rejections[1].detail == "no object but list"
    assert rejections[4].detail == "column audio holds no path but ['c.wav', 'd.wav']"


def test_a_key_with_a_meaning_may_come_late(tmp_path):
    lines = [{"audio": f"{i}.wav", "text": "one"} for i in range(200)]
    lines += [{"audio": "long.wav", "text": "two", "offset": 1.0, "duration": 2.0, "channel": 1}]
    rows = read_rows(write(tmp_path / "m.jsonl", "\n".join(map(json.dumps, lines))))
    assert (rows[-1].start_seconds, rows[-1].end_seconds, rows[-1].channel) == (1.0, 3.0, 1)
    assert not rows[0].is_segment


def test_audio_objects_of_datasets_hold_the_path(tmp_path):
    path = write(tmp_path / "m.jsonl", '{"audio": {"path": "a.wav", "bytes": null}, "sentence": "one"}\n')
    (row,) = read_rows(path)
    assert (row.source, row.transcript) == ("a.wav", "one")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"a.wav": {"text": "b"}}', r"m.json: is JSON, but not a list of objects with an audio path and a transcript"),
        ("[]", r"m.json: is JSON, but not a list of objects"),
        ('[{"audio": "a.wav", "text": "b"}, {"audio": ', r"m.json: cannot be read after object 1: Expecting value"),
        ('[{"audio": "a.wav", "text": "b"}', r"m.json: cannot be read after object 1: "),
        ('{"audio": "a.wav"}', r"m.json: no column for the transcript .*; it has: audio"),
        (
            '{"audio_filepath": "a.wav", "text": "b", "shard_id": 0}',
            r"belongs to a tarred set of NeMo .*: .* in tar files",
        ),
    ],
)
def test_unusable_manifests_say_what_is_wrong(tmp_path, content, message):
    with pytest.raises(ManifestError, match=message):
        read_rows(write(tmp_path / "m.json", content))


def test_a_column_called_shard_id_is_no_harm_where_the_files_are_there(tmp_path):
    touch(tmp_path, "a.wav")
    (row,) = read_rows(write(tmp_path / "m.json", '{"audio_filepath": "a.wav", "text": "b", "shard_id": 0}'))
    assert row.extra == {"shard_id": 0}


def test_utf_16(tmp_path):
    (row,) = read_rows(write(tmp_path / "m.json", '[{"audio": "a.wav", "text": "\u00fcber"}]'.encode("utf-16")))
    assert row.transcript == "\u00fcber"


@pytest.mark.parametrize("is_array", [True, False])
def test_reading_needs_the_memory_of_a_piece(tmp_path, is_array):
    lines = [json.dumps({"audio": f"{i}.wav", "text": f"text {i}" * 5}) for i in range(100_000)]
    path = write(tmp_path / "m.json", "[" + ",\n".join(lines) + "]" if is_array else "\n".join(lines))
    tracemalloc.start()
    num_rows = sum(not isinstance(value, BadJson) for value in read_values(path, "utf-8"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert num_rows == 100_000
    assert peak < 8e6 < path.stat().st_size
