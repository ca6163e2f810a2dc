import json

import pytest

from whisper_shard.dataset.foreign import Member
from whisper_shard.tars.member_texts import MemberTexts
from whisper_shard.tars.texts import MAX_AUDIO_BYTES, MAX_TEXT_BYTES


def found(*members, text_field="text"):
    """Rows of a tar with members (name, body), at 1000, 2000 ..."""
    texts = MemberTexts(text_field)
    for number, (name, body) in enumerate(members, 1):
        size = len(body) if isinstance(body, bytes) else body
        kept = body if texts.keeps(name, size) else None
        texts.add(Member(name=name, offset=1000 * number, num_bytes=size, crc32=number, body=kept))
    return list(texts.rows()), texts.unread


def outcome(*members, **options):
    return [(row.name, row.reason or row.transcript) for row in found(*members, **options)[0]]


WAV = b"RIFF"


def test_a_text_belongs_to_the_audio_of_the_same_name_wherever_it_lies():
    rows, _ = found(("b.txt", b"Bee"), ("a.wav", WAV), ("b.flac", WAV), ("x/a.txt", b"other"), ("a.txt", b"Ay\r\n"))
    assert [(row.name, row.transcript) for row in rows[:2]] == [("a.wav", "Ay"), ("b.flac", "Bee")]
    assert (rows[0].audio_offset, rows[0].audio_bytes, rows[0].audio_crc32) == (2000, 4, 2)
    assert (rows[0].json_offset, rows[0].json_bytes, rows[0].json_crc32) == (5000, 4, 5)
    assert [(row.name, row.reason) for row in rows[2:]] == [("x/a.txt", "no_audio")]


def test_names_with_dots_are_not_merged():
    pairs = [("utt.1.wav", WAV), ("utt.1.txt", b"one"), ("utt.2.wav", WAV), ("utt.2.txt", b"two")]
    assert outcome(*pairs) == [("utt.1.wav", "one"), ("utt.2.wav", "two")]


def test_keys_of_webdataset_are_understood_where_there_is_no_doubt():
    assert outcome(("d.e/1.audio.wav", WAV), ("d.e/1.text.txt", b"one")) == [("d.e/1.audio.wav", "one")]
    doubtful = outcome(("1.a.wav", WAV), ("1.b.wav", WAV), ("1.text.txt", b"one"))
    assert doubtful == [("1.a.wav", "no_text"), ("1.b.wav", "no_text"), ("1.text.txt", "no_audio")]


def test_json_gives_text_and_what_else_is_known():
    record = {"text": "Hi", "lang": "de", "speaker_id": "s1", "task": "transcribe", "other": [1]}
    (row,) = found(("a.json", json.dumps(record).encode()), ("a.wav", WAV))[0]
    assert (row.transcript, row.language, row.speaker, row.task) == ("Hi", "de", "s1", "transcribe")
    assert (row.json_offset, row.json_bytes) == (1000, len(json.dumps(record)))


def test_txt_comes_before_json_which_still_says_the_language():
    (row,) = found(("a.wav", WAV), ("a.json", b'{"text": "json", "language": "fr"}'), ("a.txt", b"txt"))[0]
    assert (row.transcript, row.language, row.json_offset) == ("txt", "fr", 3000)
    (row,) = found(("a.wav", WAV), ("a.json", b'["no object"]'), ("a.txt", b"txt"))[0]
    assert (row.transcript, row.language) == ("txt", None)


def test_another_field_can_hold_the_text():
    pair = ("a.wav", WAV), ("a.json", b'{"raw": "Hi", "text": "no"}')
    assert outcome(*pair, text_field="raw") == [("a.wav", "Hi")]


@pytest.mark.parametrize(
    ("members", "reason", "detail"),
    [
        ([("a.wav", WAV)], "no_text", "no txt or json member"),
        ([("a.wav", WAV), ("a.json", b'{"txt": "hi"}')], "no_text", "its json member has no text in 'text'"),
        ([("a.wav", WAV), ("a.json", b'{"text": 3}')], "no_text", "its json member has no text in 'text'"),
        ([("a.wav", WAV), ("a.txt", b"\xff\xfe")], "bad_text", "a.txt: 'utf-8' codec can't decode"),
        ([("a.wav", WAV), ("a.json", b"{"), ("a.txt", b"hi")], "bad_text", "a.json: Expecting property name"),
        ([("a.wav", WAV), ("a.json", b"[" * 100_000)], "bad_text", "a.json: "),
        ([("a.wav", WAV), ("a.txt", MAX_TEXT_BYTES + 1)], "bad_text", "a.txt: 1048577 bytes, limit 1048576"),
        ([("a.wav", WAV), ("a.txt", b"hi"), ("a.txt", b"ho")], "several_texts", "several text members"),
        ([("a.wav", MAX_AUDIO_BYTES + 1), ("a.txt", b"hi")], "member_too_large", "1073741825 bytes, limit"),
        ([("a.wav", b""), ("a.txt", b"hi")], "empty_file", "the member is empty"),
    ],
)
def test_an_utterance_without_exactly_one_text_is_rejected(members, reason, detail):
    (row,) = found(*members)[0]
    assert (row.name, row.reason) == ("a.wav", reason)
    assert detail in row.detail


def test_two_audio_members_of_one_name_are_both_rejected():
    rows = outcome(("a.wav", WAV), ("a.flac", WAV), ("a.txt", b"hi"))
    assert rows == [("a.wav", "several_audio"), ("a.flac", "several_audio")]


def test_compressed_members_are_rejected_and_others_counted():
    members = [("a.wav.gz", b"\x1f\x8b"), ("a.pkl", b"\x80\x04"), ("b.cls", b"1"), ("c.cls", b"1"), ("README", b"x")]
    rows, unread = found(*members)
    assert [(row.name, row.reason) for row in rows] == [("a.wav.gz", "compressed")]
    assert unread == {"cls": 2, "pkl": 1, "": 1}
