import shutil
from pathlib import Path

import pytest

from tests.manifests.published import make_kaldi
from tests.manifests.reading import read_all, read_rows, touch, write
from whisper_shard.errors import ManifestError

FIXTURES = Path(__file__).parent / "fixtures/lhotse/mini_librispeech"


def write_folder(folder, **files):
    names = {"wav": "wav.scp"}
    for name, content in files.items():
        write(folder / names.get(name, name), content)
    return folder


def test_segments_speakers_and_languages(tmp_path):
    corpus = make_kaldi(tmp_path / "egs/data/train")
    manifest, rows, rejections = read_all(corpus)
    assert (manifest.format, rejections) == ("kaldi", [])
    assert [(row.source, row.transcript, row.speaker, row.start_seconds, row.end_seconds) for row in rows] == [
        ("corpus/talk1.wav", "HELLO THERE", "ann", 0.5, 2.0),
        ("corpus/talk1.wav", "GOOD MORNING", "ann", 2.25, 4.0),
        ("corpus/talk2.wav", "GOOD NIGHT", "bob", 0.0, None),
    ]
    assert rows[0].path == str(tmp_path / "egs/corpus/talk1.wav")
    assert rows[0].language == "en"
    assert rows[0].extra == {"id": "ann-talk1-1", "recording": "talk1"}
    assert manifest.notes == (
        "train is a data folder of Kaldi: wav.scp, text, segments, utt2spk, utt2lang",
        f"audio paths are relative to {tmp_path / 'egs'}",
    )
    assert [row.row for row in read_rows(corpus / "wav.scp")] == [0, 1, 2]


def test_without_segments_recordings_are_utterances(tmp_path):
    touch(tmp_path, "a.wav", "b c.flac")
    corpus = write_folder(tmp_path, wav="utt1\ta.wav\nutt2  b c.flac\n", text="utt2 two\nutt1 one\n")
    rows = read_rows(corpus)
    assert [(row.source, row.transcript, row.speaker, row.is_segment) for row in rows] == [
        ("b c.flac", "two", None, False),
        ("a.wav", "one", None, False),
    ]


def test_what_is_in_one_file_only_is_rejected(tmp_path):
    corpus = write_folder(
        tmp_path,
        wav="r1 a.wav\nr2 b.wav\n",
        segments="u1 r1 0 1\nu2 r9 0 1\nu3 r1 zero 1\nu4 r2\nu6 r2 1 2\n",
        text="u1 fine\nu2 lost\nu3 when\nu4 where\nu5 who\n",
    )
    _, rows, rejections = read_all(corpus)
    assert [row.row for row in rows] == list(range(6))
    assert [(r.row, r.reason, r.detail) for r in rejections] == [
        (1, "missing_path", "r9 is not in wav.scp"),
        (2, "malformed_row", "start is 'zero'; it must be seconds (--ignore-columns start carries it along)"),
        (3, "malformed_row", "segments says 'r2', not recording, begin, end"),
        (4, "missing_path", "u5 is not in segments"),
        (5, "missing_transcript", "u6 is not in text"),
    ]
    assert rows[5].source == "b.wav"
    (tmp_path / "segments").unlink()
    _, _, rejections = read_all(corpus)
    assert [(r.source, r.detail) for r in rejections[-2:]] == [
        ("a.wav", "r1 is not in text"),
        ("b.wav", "r2 is not in text"),
    ]


def test_commands_are_refused_and_never_executed(tmp_path):
    corpus = write_folder(tmp_path, wav=f"u1 touch {tmp_path}/executed |\n", text="u1 one\n")
    with pytest.raises(
        ManifestError, match=r"wav.scp: u1 is a command, which is never executed: 'touch .*; run it once, "
    ):
        read_rows(corpus)
    lines = [*(f"u{i} {i}.wav" for i in range(200)), "u200 cat x.wav |"]
    write(tmp_path / "wav.scp", "\n".join(lines))
    with pytest.raises(ManifestError, match=r"wav.scp: u200 is a command"):
        read_rows(corpus)
    write(tmp_path / "wav.scp", "u1 raw.1.ark:1234\n")
    with pytest.raises(
        ManifestError, match=r"wav.scp: u1 is in an archive of Kaldi: 'raw.1.ark:1234'; copy the recordings"
    ):
        read_rows(corpus)
    assert not (tmp_path / "executed").exists()


def test_folder_with_commands_of_lhotse(tmp_path):
    shutil.copytree(FIXTURES, tmp_path / "mini")
    with pytest.raises(
        ManifestError, match=r"wav.scp: lbi-1272-135031-0000 is a command, which is never executed: 'sox"
    ):
        read_rows(tmp_path / "mini")
    names = [line.split()[0] for line in (tmp_path / "mini/wav.scp").read_text().splitlines()]
    touch(tmp_path, *(f"mini/{name}.wav" for name in names))
    write(tmp_path / "mini/wav.scp", "".join(f"{name} {name}.wav\n" for name in names))
    _, rows, rejections = read_all(tmp_path / "mini")
    assert (len(rows), rejections) == (len(names), [])
    assert rows[1].transcript == "A MAN SAID TO THE UNIVERSE SIR I EXIST"
    assert (rows[1].speaker, rows[1].start_seconds, rows[1].end_seconds) == ("lbi-1272-141231", 0.0, 4.65)


@pytest.mark.parametrize(
    ("name", "line"), [("wav", "u1 b.wav\n"), ("segments", "u1 u1 1 2\n"), ("utt2spk", "u1 bob\n")]
)
def test_names_that_come_twice(tmp_path, name, line):
    files = {"wav": "u1 a.wav\n", "segments": "u1 u1 0 1\n", "utt2spk": "u1 ann\n"}
    corpus = write_folder(tmp_path, text="u1 one\n", **files | {name: files[name] + line})
    with pytest.raises(ManifestError, match=rf"{name}.*: has 'u1' twice; run utils/fix_data_dir.sh"):
        read_rows(corpus)


def test_what_is_no_data_folder(tmp_path):
    write(tmp_path / "text", "u1 one\n")
    with pytest.raises(ManifestError, match=r"holds no wav.scp, as a data folder of Kaldi does"):
        read_rows(tmp_path, manifest_format="kaldi")


def test_digest_covers_all_files(tmp_path):
    corpus = make_kaldi(tmp_path / "egs/data/train")
    digest = read_all(corpus)[0].digest()
    write(corpus / "utt2spk", "ann-talk1-1 eve\n")
    assert read_all(corpus)[0].digest() != digest
