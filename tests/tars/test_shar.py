"""Lhotse Shar, written by lhotse itself (tests/fixtures/shar)."""

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.foreign import make_index, write_jsonl
from whisper_shard.dataset.foreign import Member
from whisper_shard.errors import ManifestError
from whisper_shard.tars.shar import SharTexts, find_cuts

SHAR = Path("tests/fixtures/shar")


def cut(name="a", **fields):
    supervision = {"id": "s", "start": 0.0, "duration": 1.0, "text": "hello", "language": "en", "speaker": "x"}
    return {"id": name, "type": "MonoCut", "start": 0, "duration": 1.0, "supervisions": [supervision], **fields}


def found(tmp_path, cuts, names=("a.flac", "a.json")):
    texts = SharTexts(write_jsonl(tmp_path / "cuts.jsonl", cuts))
    for number, name in enumerate(names, 1):
        texts.add(Member(name=name, offset=1000 * number, num_bytes=5, crc32=number, body=None))
    return list(texts.rows()), texts.unread


def test_what_lhotse_wrote(tmp_path):
    dataset = make_index(SHAR, tmp_path / "out")
    assert dataset.description.foreign.texts == "shar"
    columns = dataset.columns("source", "text", "language", "speaker", "num_samples")
    assert columns["source"].tolist() == [f"set/cut.{n}.flac" for n in range(4)]
    assert columns["text"].tolist() == [
        "sentence 0 part 0",
        "sentence 1 part 0",
        "sentence 2 part 0",
        "sentence 3 part 0 sentence 3 part 1",
    ]
    assert columns["num_samples"].tolist() == [19_200, 20_800, 17_600, 24_000]
    assert columns["speaker"].tolist() == ["spk0", "spk0", "spk0", None]
    (rejected,) = pq.read_table(tmp_path / "out/rejects.parquet").to_pylist()
    assert rejected["source"].endswith("recording.000001.tar/set/cut.4.flac")
    assert (rejected["reason"], rejected["row"]) == ("no_text", 4)


def test_other_fields_are_not_taken_for_recordings(tmp_path):
    folder = shutil.copytree(SHAR, tmp_path / "shar")
    shutil.copy(folder / "recording.000000.tar", folder / "target.000000.tar")
    assert make_index(folder, tmp_path / "out").num_utterances == 4


def test_cuts_are_found_by_number(tmp_path):
    for name in ("recording.tar", "cuts.jsonl", "recording.7.tar", "cuts.7.jsonl.gz", "audio.7.tar"):
        (tmp_path / name).touch()
    assert find_cuts(tmp_path / "recording.tar") == tmp_path / "cuts.jsonl"
    assert find_cuts(tmp_path / "recording.7.tar") == tmp_path / "cuts.7.jsonl.gz"
    assert find_cuts(tmp_path / "recording.8.tar") is None
    assert find_cuts(tmp_path / "audio.7.tar") is None


@pytest.mark.parametrize(
    ("fields", "reason", "detail"),
    [
        ({"type": "MixedCut"}, "unsupported_cut", "a cut of type 'MixedCut'; known are MonoCut and MultiCut"),
        ({"supervisions": []}, "no_text", "0 of 0 supervisions"),
        ({"supervisions": [{"text": "a"}, {}]}, "no_text", "1 of 2 supervisions"),
        ({"supervisions": None}, "bad_segment", "start 0, duration 1.0"),
        ({"start": -1}, "bad_segment", "start -1"),
        ({"duration": None}, "bad_segment", "duration None"),
    ],
)
def test_cuts_that_cannot_be_used(tmp_path, fields, reason, detail):
    (row,), _ = found(tmp_path, [cut(**fields)])
    assert row.reason == reason
    assert detail in row.detail


def test_cuts_and_members_without_their_counterpart(tmp_path):
    rows, unread = found(tmp_path, [cut("b")], ["a.flac", "a.json", "b.nodata", "b.nometa", "c.pkl"])
    assert [(row.name, row.reason) for row in rows] == [("b", "missing_member"), ("a.flac", "no_text")]
    assert unread == {"pkl": 1}


def test_what_is_no_cut_is_an_error(tmp_path):
    with pytest.raises(ManifestError, match=r"cuts\.jsonl: line 1 has no id; are these the cuts of Lhotse Shar\?"):
        found(tmp_path, [json.loads("{}")])
