import pytest

from tests.manifests.published import make_librispeech, record
from tests.manifests.reading import notes_of, read_all, read_rows, write
from whisper_shard.errors import ManifestError


def test_training_is_read_and_the_rest_is_named(tmp_path):
    corpus = make_librispeech(tmp_path / "LibriSpeech")
    manifest, rows, rejections = read_all(corpus)
    assert (manifest.format, rejections) == ("librispeech", [])
    assert [(row.row, row.source, row.transcript, row.speaker) for row in rows[:2]] == [
        (0, "train-clean-100/103/1240/103-1240-0000.flac", "CHAPTER 1240 SENTENCE 0", "103"),
        (1, "train-clean-100/103/1240/103-1240-0001.flac", "CHAPTER 1240 SENTENCE 1", "103"),
    ]
    assert [row.speaker for row in rows] == ["103"] * 3 + ["19"] * 3
    assert rows[0].extra == {"id": "103-1240-0000"}
    assert manifest.notes == (
        "LibriSpeech is laid out as LibriSpeech: 2 files of transcripts, recordings .flac",
        f"dev-clean is not read; to evaluate on it: --eval-corpus {corpus}/dev-clean",
    )


@pytest.mark.parametrize("part", ["dev-clean", "dev-clean/84", "dev-clean/84/121123"])
def test_one_split_speaker_or_chapter(tmp_path, part):
    rows = read_rows(make_librispeech(tmp_path) / part)
    assert [row.transcript for row in rows] == [f"CHAPTER 121123 SENTENCE {i}" for i in range(3)]
    assert rows[0].path == str(tmp_path / "dev-clean/84/121123/84-121123-0000.flac")


def test_other_recordings_than_flac(tmp_path):
    record(tmp_path / "train/1/2/1-2-0.wav", seed=0)
    write(tmp_path / "train/1/2/1-2.trans.txt", "1-2-0 HELLO\n1-2-1\n")
    rows = read_rows(tmp_path)
    assert [(row.source, row.transcript) for row in rows] == [
        ("train/1/2/1-2-0.wav", "HELLO"),
        ("train/1/2/1-2-1.wav", ""),
    ]
    assert "recordings .wav" in notes_of(tmp_path)[0]


def test_digest_covers_all_transcripts(tmp_path):
    corpus = make_librispeech(tmp_path)
    digest = read_all(corpus)[0].digest()
    assert read_all(corpus)[0].digest() == digest
    write(corpus / "train-clean-100/19/198/19-198.trans.txt", "19-198-0000 SOMETHING ELSE\n")
    assert read_all(corpus)[0].digest() != digest


def test_what_is_not_laid_out_like_it(tmp_path):
    with pytest.raises(ManifestError, match=r"holds no \*.trans.txt, as LibriSpeech has them"):
        read_rows(tmp_path, manifest_format="librispeech")
    make_librispeech(tmp_path)
    (tmp_path / "train-clean-100").rename(tmp_path / "test-clean")
    with pytest.raises(ManifestError, match=r"no split is called train; name one of .*/dev-clean, .*/test-clean"):
        read_rows(tmp_path)
    write(tmp_path / "dev-clean/84/121123/84-121123.trans.txt", "84-121123-0000 Gr\u00fc\u00dfe\n".encode("latin1"))
    with pytest.raises(ManifestError, match=r"84-121123.trans.txt: a line after 0 is not UTF-8; convert it with iconv"):
        read_rows(tmp_path / "dev-clean")
