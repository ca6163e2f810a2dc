import pytest

from tests.foreign import write_jsonl
from whisper_shard.dataset.foreign import Member
from whisper_shard.errors import ManifestError
from whisper_shard.tars import nemo
from whisper_shard.tars.nemo import NemoTexts, split_manifest


def found(tmp_path, lines, names, text_field="text"):
    texts = NemoTexts(write_jsonl(tmp_path / "m.json", lines), text_field)
    for number, name in enumerate(names, 1):
        assert not texts.keeps(name, 5)
        texts.add(Member(name=name, offset=1000 * number, num_bytes=5, crc32=number, body=None))
    return list(texts.rows()), texts.unread


def line(name, text="hello", **fields):
    return {"audio_filepath": name, "duration": 1.5, "text": text, "shard_id": 0, **fields}


def test_lines_find_their_members_in_the_order_of_the_tar(tmp_path):
    lines = [line("b.wav", "bee", lang="de"), line("a.wav", "ay", duration=2)]
    rows, unread = found(tmp_path, lines, ["./a.wav", "b.wav", "b.txt"])
    assert [(r.name, r.transcript, r.language, r.seconds) for r in rows] == [
        ("./a.wav", "ay", None, 2.0),
        ("b.wav", "bee", "de", 1.5),
    ]
    assert (rows[1].audio_offset, rows[1].audio_bytes, rows[1].audio_crc32) == (2000, 5, 2)
    assert (rows[1].json_offset, rows[1].json_bytes, rows[1].json_crc32) == (0, 0, 0)
    assert unread == {"txt": 1}


def test_segments_share_a_member(tmp_path):
    lines = [line("a-sub1.wav", "two", offset=1.5, duration=0.5), line("a.wav", "one", offset=0.25, duration=1.0)]
    rows, _ = found(tmp_path, lines, ["a.wav", "c-sub1.wav"])
    assert [(r.name, r.transcript, r.start_seconds, r.seconds, r.reason) for r in rows] == [
        ("a.wav", "one", 0.25, 1.0, None),
        ("a.wav", "two", 1.5, 0.5, None),
        ("c-sub1.wav", "", None, None, "no_text"),
    ]
    assert found(tmp_path, [line("c-sub1.wav")], ["c-sub1.wav"])[0][0].reason is None


@pytest.mark.parametrize(
    ("fields", "reason", "detail"),
    [
        ({"audio_filepath": "gone.wav"}, "missing_member", "the manifest names it, but it is not in the tar"),
        ({"text": None}, "no_text", "the line has no text in 'text'"),
        ({"offset": -1}, "bad_segment", "offset -1, duration 1.5"),
        ({"duration": "long"}, "bad_segment", "duration 'long'"),
        ({"offset": float("inf")}, "bad_segment", "offset inf"),
        ({"source_lang": "en", "target_lang": "de"}, "unsupported_task", "translation from en to de"),
    ],
)
def test_lines_that_cannot_be_used(tmp_path, fields, reason, detail):
    rows, _ = found(tmp_path, [line("a.wav") | fields], ["a.wav"])
    assert rows[0].reason == reason
    assert detail in rows[0].detail


def test_a_name_twice_in_the_tar_is_ambiguous(tmp_path):
    rows, _ = found(tmp_path, [line("a.wav")], ["a.wav", "a.wav"])
    assert [(r.name, r.reason) for r in rows] == [("a.wav", "several_audio")]


def test_languages_and_translations_of_canary(tmp_path):
    lines = [
        line("a.wav", source_lang="de", target_lang="en"),
        line("b.wav", source_lang="de", target_lang="de"),
        line("c.wav", answer="x"),
    ]
    rows, _ = found(tmp_path, lines, ["a.wav", "b.wav", "c.wav"])
    assert [(r.language, r.task) for r in rows] == [("de", "translate"), ("de", None), (None, None)]
    assert found(tmp_path, lines, ["c.wav"], text_field="answer")[0][-1].transcript == "x"


def test_a_line_without_a_name_is_an_error(tmp_path):
    with pytest.raises(ManifestError, match=r"m\.json: line 2 has no audio_filepath; is this a NeMo manifest\?"):
        found(tmp_path, [line("a.wav"), {"text": "x"}], ["a.wav"])


def test_a_manifest_is_split_by_tar(tmp_path, monkeypatch):
    monkeypatch.setattr(nemo, "SPLIT_BYTES", 100)
    lines = [line(f"{number}.wav", shard_id=number % 3) for number in range(20)]
    parts = split_manifest(write_jsonl(tmp_path / "m.json", lines), tmp_path)
    assert sorted(parts) == [0, 1, 2]
    assert [c["audio_filepath"] for _, c in nemo.read_json_lines(parts[1])] == [f"{n}.wav" for n in range(1, 20, 3)]


@pytest.mark.parametrize("shard", [None, "1", -1])
def test_a_line_without_tar_is_an_error(tmp_path, shard):
    path = write_jsonl(tmp_path / "m.json", [line("a.wav", shard_id=shard)])
    with pytest.raises(
        ManifestError, match=r"m\.json: line 1 has the shard_id .*; with several tars, a manifest needs"
    ):
        split_manifest(path, tmp_path)
