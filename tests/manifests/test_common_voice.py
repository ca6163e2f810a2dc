import pytest

from tests.manifests.published import make_common_voice
from tests.manifests.reading import notes_of, read_all, read_rows
from whisper_shard.errors import ManifestError


def test_validated_clips_are_read(tmp_path):
    corpus = make_common_voice(tmp_path / "de")
    manifest, rows, rejections = read_all(corpus)
    assert (manifest.format, rejections) == ("common_voice", [])
    assert [(row.source, row.file, row.transcript) for row in rows[:2]] == [
        ("common_voice_de_1000.mp3", "clips/common_voice_de_1000.mp3", '"Da ist er", sagte sie.'),
        ("common_voice_de_1001.mp3", "clips/common_voice_de_1001.mp3", "Das ist ein Satz."),
    ]
    assert len(rows) == 4
    assert (rows[0].language, rows[0].speaker) == ("de", "ab" * 64 + "0")
    assert (rows[0].extra["age"], rows[0].extra["up_votes"]) == ("fourties", "2")
    assert not rows[0].is_segment
    assert manifest.notes[:2] == (
        "de is a language of Common Voice: validated.tsv is read",
        "validated.tsv has the clips of dev.tsv and test.tsv in it; to evaluate on those, prepare "
        f"{corpus}/train.tsv with --eval-corpus {corpus}/test.tsv",
    )


def test_other_lists_are_tables_beside_the_clips(tmp_path):
    corpus = make_common_voice(tmp_path / "de")
    assert [row.path for row in read_rows(corpus / "test.tsv")] == [f"{corpus}/clips/common_voice_de_1003.mp3"]
    assert len(read_rows(corpus / "train.tsv")) == 2
    (corpus / "validated.tsv").unlink()
    assert len(read_rows(corpus)) == 2
    assert "de is a language of Common Voice: train.tsv is read" in notes_of(corpus)


def test_what_is_not_laid_out_like_it(tmp_path):
    with pytest.raises(
        ManifestError, match=r"holds none of validated.tsv, train.tsv, as a language of Common Voice does"
    ):
        read_rows(tmp_path, manifest_format="common_voice")
