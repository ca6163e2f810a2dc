import gzip
import json
import shutil
from pathlib import Path

import pytest

from tests.manifests.published import make_lhotse, record
from tests.manifests.reading import read_all, read_rows, write
from whisper_shard.errors import ManifestError
from whisper_shard.manifests.lhotse import locate

FIXTURES = Path(__file__).parent / "fixtures/lhotse"


@pytest.fixture
def lhotse(tmp_path):
    """The fixtures at the place that their paths name."""
    shutil.copytree(FIXTURES, tmp_path / "test/fixtures")
    return tmp_path / "test/fixtures"


def recording(name="r1", source="a.wav", kind="file", channels=(0,), **more):
    sources = [{"type": kind, "channels": list(channels), "source": source}]
    return {"id": name, "sources": sources, "sampling_rate": 16000, "num_samples": 160000, "duration": 10.0, **more}


def supervision(name="s1", start=1.0, duration=2.0, text="hello", **more):
    return {"id": name, "recording_id": "r1", "start": start, "duration": duration, "channel": 0, "text": text, **more}


def cut(recording, *supervisions, start=0.0, **more):
    base = {"id": "c1", "start": start, "duration": 5.0, "channel": 0, "type": "MonoCut"}
    return {**base, "supervisions": list(supervisions), "recording": recording, **more}


def write_lines(path, *objects):
    return write(path, gzip.compress("".join(f"{json.dumps(value)}\n" for value in objects).encode()))


def test_supervisions_and_recordings_of_lhotse(lhotse):
    for name in ("supervision.json", "audio.json"):
        manifest, rows, rejections = read_all(lhotse / name)
        assert manifest.format == "lhotse"
        assert manifest.folder == lhotse.parents[1]
        assert manifest.notes[0] == f"{name} is a manifest of Lhotse: supervision.json, audio.json"
        assert [(row.source, row.start_seconds, row.end_seconds, row.channel) for row in rows[:4]] == [
            ("test/fixtures/mono_c0.wav", 0.1, pytest.approx(0.4), None),
            ("", 0.5, pytest.approx(0.9), None),
            ("test/fixtures/stereo.wav", 0.1, pytest.approx(0.3), None),
            ("test/fixtures/stereo.wav", 0.3, pytest.approx(0.5), None),
        ]
        assert (rows[0].transcript, rows[0].language) == ("transcript of the first segment", "english")
        assert (rows[0].speaker, rows[0].extra["id"]) == ("Norman Dyhrentfurth", "segment-1")
        reasons = {rejection.row: (rejection.reason, rejection.detail) for rejection in rejections}
        assert reasons == {
            1: ("unsupported_recording", "its channels are in several files"),
            2: ("missing_transcript", "column text holds nothing"),
            3: ("missing_transcript", "column text holds nothing"),
            4: ("missing_transcript", "recording recording-3 has no supervision"),
            5: ("missing_transcript", "recording recording-4 has no supervision"),
        }
        assert len(rows) == 6  # four supervisions, two recordings without any


def test_cuts_of_lhotse(lhotse):
    manifest, rows, rejections = read_all(lhotse / "ljspeech/cuts.json")
    assert (manifest.format, rejections) == ("lhotse", [])
    assert [(row.transcript, row.is_segment, row.language) for row in rows] == [
        ("IN EIGHTEEN THIRTEEN", False, "English"),
        (rows[1].transcript, False, "English"),
    ]
    assert rows[0].path == str(lhotse / "ljspeech/storage/LJ002-0020.wav")
    assert rows[0].duration_seconds == pytest.approx(1.5396371882086168)
    assert rows[0].extra["custom"] == {"normalized_text": "IN EIGHTEEN THIRTEEN"}
    assert rows[0].extra["cut_id"] == "33ef3990-f39f-4aee-8dd4-f1cbd89c3041"
    assert [row.source for row in read_rows(lhotse / "ljspeech")] == [row.source for row in rows]


def test_commands_are_refused_and_never_executed(lhotse):
    with pytest.raises(
        ManifestError, match=r"none of its first \d+ recordings can be read: its audio is a command, which"
    ):
        read_rows(lhotse / "mini_librispeech/lhotse")


def test_segments_of_cuts_are_those_of_the_recording(tmp_path):
    long = recording(duration=60.0)
    path = write_lines(
        tmp_path / "cuts.jsonl.gz",
        cut(long, supervision("s1", 0.5, 2.0), supervision("s2", 3.0, 1.0, gender="f"), start=20.0),
        cut(long, supervision("s3", 0.0, 60.0), start=0.0),
    )
    rows = read_rows(path)
    assert [(row.extra["id"], row.start_seconds, row.end_seconds, row.duration_seconds) for row in rows] == [
        ("s1", 20.5, 22.5, None),
        ("s2", 23.0, 24.0, None),
        ("s3", None, None, 60.0),
    ]
    assert rows[1].extra == {"id": "s2", "recording_id": "r1", "duration": 1.0, "gender": "f", "cut_id": "c1"}


def test_what_cannot_be_read_says_what_it_is(tmp_path):
    good = cut(recording(), supervision())
    lines = [
        good,
        cut(recording(kind="command", source="rm -r /"), supervision()),
        cut(recording(kind="memory", source="UklGRg=="), supervision()),
        cut(recording(transforms=[{"name": "Speed", "kwargs": {"factor": 0.9}}]), supervision()),
        cut(recording(transforms=[{"name": "Resample", "kwargs": {}}]), supervision()),
        {"id": "m", "type": "MixedCut", "tracks": [{"cut": good}]},
        {key: value for key, value in good.items() if key != "recording"},
        cut(recording()),
        cut(recording(), {"id": "s", "text": "hello"}),
        cut(recording(kind="url", source="https://a/b.wav"), supervision()),
    ]
    _, rows, rejections = read_all(write_lines(tmp_path / "cuts.jsonl.gz", *lines))
    assert [row.row for row in rows] == list(range(10))
    assert rows[9].path == "https://a/b.wav"
    assert [(r.row, r.reason) for r in rejections] == [
        *((i, "unsupported_recording") for i in (1, 2, 3, 5, 6)),
        (7, "missing_transcript"),
        (8, "malformed_row"),
    ]
    words = [rejection.detail for rejection in rejections]
    assert words[0] == "its audio is a command, which is never executed: 'rm -r /'; store it in a file"
    assert words[1] == "its audio is no local file but a memory: 'UklGRg=='; store it in a file"
    assert words[2] == "it is augmented (Speed), and the file is not"
    assert words[3] == "cut m is mixed of several recordings; store it: cuts.save_audios"
    assert words[4] == "cut c1 has no recording; store it: cuts.save_audios"


def test_channels_are_those_of_the_file():
    stereo = recording(channels=(0, 1))
    assert locate(stereo, 1) == ("a.wav", 1, None)
    assert locate(stereo, [0, 1]) == ("a.wav", None, None)
    assert locate(stereo, None) == ("a.wav", None, None)
    assert locate(recording(), 0) == ("a.wav", None, None)
    two = recording() | {
        "sources": [recording()["sources"][0], recording(source="b.wav", channels=(1, 2))["sources"][0]]
    }
    assert locate(two, 2) == ("b.wav", 1, None)
    assert locate(two, [0]) == ("a.wav", None, None)
    assert locate(two, None)[2] == ("unsupported_recording", "its channels are in several files")
    assert locate(two, 7)[2] == ("unsupported_recording", "no file has its channel")


def test_folder_with_several_splits(tmp_path):
    corpus = make_lhotse(tmp_path / "manifests")
    manifest, rows, rejections = read_all(corpus)
    assert rejections == []
    assert [row.transcript for row in rows] == [f"supervision {i} of train" for i in range(3)]
    assert manifest.notes == (
        "manifests is a manifest of Lhotse: demo_supervisions_train.jsonl.gz, demo_recordings_train.jsonl.gz",
        "demo_supervisions_dev.jsonl.gz is not read; to evaluate on it: "
        f"--eval-corpus {corpus}/demo_supervisions_dev.jsonl.gz",
    )
    assert len(read_rows(corpus / "demo_supervisions_dev.jsonl.gz")) == 1
    assert len(read_rows(corpus / "demo_recordings_dev.jsonl.gz")) == 1


def test_files_without_their_partner(tmp_path):
    path = write_lines(tmp_path / "x_supervisions.jsonl.gz", supervision())
    with pytest.raises(
        ManifestError, match=r"is supervisions of Lhotse; put their recordings beside it, as x_recordings.js"
    ):
        read_rows(path)
    write_lines(tmp_path / "a_recordings.jsonl.gz", recording())
    assert len(read_rows(path)) == 1
    write_lines(tmp_path / "b_recordings.jsonl.gz", recording())
    with pytest.raises(ManifestError, match=r"put their recordings beside it, as x_recordings.jsonl.gz"):
        read_rows(path)
    write_lines(tmp_path / "x_recordings.jsonl.gz", recording(), recording())
    with pytest.raises(ManifestError, match=r"x_recordings.jsonl.gz: has the recording 'r1' twice"):
        read_rows(path)
    write_lines(tmp_path / "x_recordings.jsonl.gz", recording("other"))
    _, rows, rejections = read_all(path)
    assert [(r.reason, r.detail) for r in rejections] == [
        ("missing_path", "no recording 'r1'"),
        ("missing_transcript", "recording other has no supervision"),
    ]
    assert len(rows) == 2


def test_what_is_not_of_lhotse(tmp_path):
    path = write(tmp_path / "m.json", '{"audio": "a.wav", "text": "hello"}')
    assert read_all(path)[0].format == "json"
    with pytest.raises(ManifestError, match=r"m.json: is neither cuts, supervisions nor recordings of Lhotse"):
        read_rows(path, manifest_format="lhotse")
    with pytest.raises(
        ManifestError, match=r"holds no supervisions and no cuts; name one file of supervisions or cuts"
    ):
        read_rows(tmp_path, manifest_format="lhotse")


def test_recordings_are_read(tmp_path):
    record(tmp_path / "a.wav", seed=0, seconds=10.0)
    path = write_lines(tmp_path / "cuts.jsonl.gz", cut(recording(), supervision()))
    (row,) = read_rows(path)
    assert Path(row.path).is_file()
