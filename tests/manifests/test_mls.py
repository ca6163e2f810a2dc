import pytest

from tests.manifests.published import make_mls
from tests.manifests.reading import read_all, read_rows, write
from whisper_shard.errors import ManifestError


def test_training_is_read_and_the_rest_is_named(tmp_path):
    corpus = make_mls(tmp_path / "mls_polish")
    manifest, rows, rejections = read_all(corpus)
    assert (manifest.format, rejections) == ("mls", [])
    assert [(row.source, row.transcript, row.speaker) for row in rows] == [
        (f"train/audio/6892/10317/6892_10317_00000{i}.flac", f"zdanie numer {i} z ksi\u0105\u017cki", "6892")
        for i in range(3)
    ]
    assert rows[0].extra == {"id": "6892_10317_000000"}
    assert manifest.notes == (
        "mls_polish is laid out as Multilingual LibriSpeech: transcripts of train, recordings .flac",
        f"dev is not read; to evaluate on it: --eval-corpus {corpus}/dev",
        f"test is not read; to evaluate on it: --eval-corpus {corpus}/test",
    )


@pytest.mark.parametrize("name", ["dev", "dev/transcripts.txt"])
def test_one_split(tmp_path, name):
    (row,) = read_rows(make_mls(tmp_path) / name)
    assert row.path == f"{tmp_path}/dev/audio/6892/10317/6892_10317_000000.flac"


def test_lines_without_a_tab_are_rejected(tmp_path):
    corpus = make_mls(tmp_path)
    write(corpus / "train/transcripts.txt", "6892_10317_000000 no tab\n6892_10317_000001\tfine\n")
    _, rows, rejections = read_all(corpus)
    assert [row.row for row in rows] == [0, 1]
    assert [(r.row, r.reason, r.detail) for r in rejections] == [
        (0, "malformed_row", "no tab between name and transcript")
    ]


def test_what_is_not_laid_out_like_it(tmp_path):
    with pytest.raises(
        ManifestError, match=r"holds no transcripts.txt beside audio/, as Multilingual LibriSpeech does"
    ):
        read_rows(tmp_path, manifest_format="mls")
